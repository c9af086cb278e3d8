use super::*;

fn meter() -> Meter {
    Meter::new(Latencies { p50: 0.001, p99: 0.001, idle_p99: 0.001, rate: 100.0 })
}

#[test]
fn the_last_window_counts_though_it_is_shorter_than_a_second() {
    let mut meter = meter();
    for step in 1..=6 {
        meter.add(&[(0.05, 10.0)]);
        meter.advance(f64::from(step) / 10.0, 0.0);
    }
    let (record, _) = meter.finish(0.6, 0.0);
    assert!((record.brownout2_s - 0.6).abs() < 1e-9 && (record.brownout10_s - 0.6).abs() < 1e-9);
    assert!((record.brownout_area_s_ms / (0.6 * 49.0) - 1.0).abs() < 0.04, "{}", record.brownout_area_s_ms);
}

#[test]
fn a_window_in_which_nothing_ends_has_the_latency_of_what_waits() {
    let mut meter = meter();
    meter.miss(100.0);
    meter.advance(1.0, 1.0);
    assert_eq!(meter.last.p99, 1.0);
    let (record, _) = meter.finish(1.0, 1.0);
    assert!((record.brownout_area_s_ms - 999.0).abs() < 1e-9, "{}", record.brownout_area_s_ms);
    assert_eq!((record.brownout10_s, record.dip_area_ops, record.dip_iops), (1.0, 100.0, 0.0));
}

#[test]
fn lines_that_are_dropped_leave_their_longest_wait_to_the_next() {
    let mut meter = meter();
    let sample = |meter: &mut Meter, t_s: f64| {
        meter.sample(SeriesPoint { t_s, ..SeriesPoint::default() }, [Loss::Nothing; 3], 0.0);
    };
    for line in 0..MOST_SAMPLES {
        let seconds = if line == 5 || line == MOST_SAMPLES - 1 { 7.0 } else { 0.001 };
        meter.add(&[(seconds, 1.0)]);
        sample(&mut meter, line as f64);
    }
    sample(&mut meter, MOST_SAMPLES as f64);
    let (_, series) = meter.finish(MOST_SAMPLES as f64, 0.0);
    let long: Vec<f64> = series.iter().filter(|line| line.max_ms > 6e3).map(|line| line.t_s).collect();
    assert_eq!(long, [6.0, MOST_SAMPLES as f64]);
}
