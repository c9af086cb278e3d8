use super::*;

#[test]
fn values_are_written_in_the_part_of_the_unit_that_suits_them() {
    assert_eq!(Unit::Seconds.format(0.0015), "1.5 ms");
    assert_eq!(Unit::Seconds.format(90.0), "90 s");
    assert_eq!(Unit::Seconds.format(7200.0), "2 h");
    assert_eq!(Unit::Seconds.format(0.0), "0 s");
    assert_eq!(Unit::Seconds.format(599.0), "599 s");
    assert_eq!(Unit::Seconds.format(630.0), "10.5 min");
    assert_eq!(Unit::Millis.format(1500.0), "1.5 s");
    assert_eq!(Unit::Millis.format(0.02), "20 µs");
    assert_eq!(Unit::Micros.format(12.0), "12 µs");
    assert_eq!(Unit::Bytes.format(1536.0), "1.5 KiB");
    assert_eq!(Unit::Rate.format(125_000_000.0), "119 MiB/s");
    assert_eq!(Unit::Share.format(0.125), "12.5 %");
    assert_eq!(Unit::Plain.format(12_000.0), "12 k");
    assert_eq!(Unit::Plain.format(4000.0), "4000");
    assert_eq!(Unit::Seconds.format(f64::INFINITY), "never");
    assert_eq!(Unit::Seconds.format(f64::NAN), "–");
}

#[test]
fn ticks_are_round_and_hold_all_values() {
    for (low, high) in [(0.0, 1.0), (0.0, 97.3), (3.0, 3.0), (0.0, 0.0), (120.0, 5400.0), (0.0, 1e13)] {
        for unit in [Unit::Seconds, Unit::Bytes, Unit::Plain] {
            let scale = Axis::new("", unit).scale([low, high].into_iter());
            assert!(scale.low <= low && high <= scale.high, "{low} {high}: {scale:?}");
            assert!((2..=8).contains(&scale.ticks.len()), "{low} {high}: {scale:?}");
            let mut labels: Vec<_> = scale.ticks.iter().map(|(_, label)| label).collect();
            labels.dedup();
            assert_eq!(labels.len(), scale.ticks.len(), "two ticks look alike: {scale:?}");
        }
    }
}

#[test]
fn logarithmic_ticks_are_decades() {
    let scale = Axis::new("", Unit::Millis).log().scale([0.2, 1500.0].into_iter());
    assert_eq!((scale.low, scale.high), (0.1, 10_000.0));
    assert_eq!(scale.place(0.1), 0.0);
    assert!((scale.place(10.0) - 0.4).abs() < 1e-9);
    assert!(scale.ticks.len() <= 10);
}

#[test]
fn an_axis_is_logarithmic_only_for_a_wide_range_above_zero() {
    let axis = || Axis::new("", Unit::Seconds);
    assert!(axis().fitting([1.0, 100.0].into_iter()).log);
    assert!(!axis().fitting([0.0, 100.0].into_iter()).log);
    assert!(!axis().fitting([10.0, 100.0, f64::INFINITY].into_iter()).log);
    assert!(!axis().log().shows(0.0));
}

#[test]
fn a_logarithmic_axis_of_times_counts_in_seconds() {
    let scale = Axis::new("", Unit::Millis).log().scale([1.0, 2e6].into_iter());
    let labels: Vec<&str> = scale.ticks.iter().map(|(_, label)| label.as_str()).collect();
    assert_eq!(labels, ["1 ms", "10 ms", "100 ms", "1 s", "10 s", "100 s", "1000 s", "10000 s"]);
}

#[test]
fn known_values_are_the_ticks() {
    let ticks = vec![(1.0, "1K".to_owned()), (4.0, "4K".to_owned())];
    let scale = Axis::new("", Unit::Bytes).ticks(ticks.clone()).scale([1.0, 4.0].into_iter());
    assert_eq!(scale.ticks, ticks);
    assert!(scale.place(1.0) > 0.0 && scale.place(4.0) < 1.0);
}

#[test]
fn differences_have_two_digits() {
    assert_eq!(Unit::Seconds.short(9.62), "9.6 s");
    assert_eq!(Unit::Seconds.short(0.181), "181 ms");
    assert_eq!(Unit::Ratio.short(0.0694), "0.07×");
}

#[test]
fn ticks_that_are_close_look_different_and_have_one_unit() {
    let labels = |axis: Axis, low, high| -> Vec<String> {
        axis.scale([low, high].into_iter()).ticks.into_iter().map(|(_, label)| label).collect()
    };
    let ratios = labels(Axis::new("", Unit::Ratio).tight(), 1.0, 1.021);
    assert_eq!(ratios, ["1.000×", "1.005×", "1.010×", "1.015×", "1.020×", "1.025×"]);
    let times = labels(Axis::new("", Unit::Seconds), 0.0, 7140.0);
    assert_eq!(times, ["0 min", "50 min", "100 min", "150 min"]);
    let near = labels(Axis::new("", Unit::Seconds).tight(), 7030.0, 7150.0);
    assert!(near.windows(2).all(|pair| pair[0] != pair[1]), "{near:?}");
}
