//! Intervals and the flight recorder, with times that the tests choose.

use super::intervals::KEPT;
use super::recorder::{FROZEN, Record};
use super::*;

const MS: Duration = Duration::from_millis(1);

fn request(op: Op, latency: Duration) -> Ended {
    Ended { op, offset: 4096, len: 512, failed: false, latency }
}

#[test]
fn an_interval_has_what_ended_in_it() {
    let flight = Flight::default();
    for n in 1..=100 {
        flight.begins();
        flight.ended(50 * MS, &request(Op::Read, n * MS));
    }
    flight.ended(60 * MS, &Ended { failed: true, ..request(Op::Write, 2 * MS) });
    assert!(flight.latencies(99 * MS, 0, 10).intervals.is_empty(), "not closed yet");
    let latencies = flight.latencies(100 * MS, 0, 10);
    assert_eq!(latencies.open, 1);
    let [interval] = latencies.intervals[..] else { panic!("{latencies:?}") };
    let reads = interval.of(Op::Read);
    assert_eq!((reads.count, reads.bytes, reads.max), (100, 51_200, 1e8));
    let near = |a: f32, b: f32| (a / b - 1.0).abs() < 0.08;
    assert!(near(reads.p50, 5e7) && near(reads.p99, 9.9e7), "{reads:?}");
    let writes = interval.of(Op::Write);
    assert_eq!((writes.count, writes.bytes, interval.failed), (1, 0, 1));
    assert_eq!(interval.of(Op::Flush), &Quantiles::default());
}

#[test]
fn intervals_in_which_nothing_happened_are_left_out() {
    let flight = Flight::default();
    flight.ended(MS, &request(Op::Read, MS));
    flight.ended(Duration::from_secs(3600), &request(Op::Flush, MS));
    let numbers = |since, most| {
        let all = flight.latencies(Duration::from_secs(3601), since, most).intervals;
        all.into_iter().map(|interval| interval.number).collect::<Vec<_>>()
    };
    assert_eq!(numbers(0, 10), [0, 36_000]);
    assert_eq!(numbers(1, 10), [36_000]);
    assert_eq!(numbers(0, 1), [0]);
    assert_eq!(numbers(36_001, 10), [0; 0]);
}

#[test]
fn ten_minutes_are_kept() {
    let flight = Flight::default();
    for n in 0..KEPT as u32 + 10 {
        flight.ended(INTERVAL * n, &request(Op::Read, MS));
    }
    let all = flight.latencies(INTERVAL * (KEPT as u32 + 10), 0, usize::MAX).intervals;
    assert_eq!((all.len(), all[0].number), (KEPT, 10));
}

#[test]
fn a_closed_gate_is_divided_among_the_intervals_that_it_spans() {
    let flight = Flight::default();
    flight.gate(90 * MS, true);
    flight.gate(340 * MS, false);
    flight.gate(350 * MS, true);
    let latencies = flight.latencies(400 * MS, 0, 10);
    let closed: Vec<_> = latencies.intervals.iter().map(|i| (i.number, i.gate_closed / 1_000_000)).collect();
    assert_eq!(closed, [(0, 10), (1, 100), (2, 100), (3, 90)]);
    assert!(latencies.is_closed);
    // As long as it takes.
    let long = flight.latencies(Duration::from_secs(1_000_000), 0, usize::MAX).intervals;
    assert_eq!((long.len(), long[KEPT - 1].number), (KEPT, 9_999_999));
}

fn around(flight: &Flight, now: Duration) -> Vec<u64> {
    let frozen = flight.frozen(now).unwrap();
    assert_eq!(frozen.len(), frozen.requests().count());
    frozen.requests().map(|request| request.ended.as_millis() as u64).collect()
}

#[test]
fn the_requests_around_the_last_switch_are_kept() {
    let flight = Flight::default();
    let end = |ms: u32| flight.ended(ms * MS, &request(Op::Write, 3 * MS));
    assert!(flight.frozen(MS).is_none(), "no switch yet");
    [1, 900, 960, 999].into_iter().for_each(end);
    flight.switched(1000 * MS);
    [1000, 1050].into_iter().for_each(end);
    assert!(flight.frozen(1050 * MS).is_none(), "not complete yet");
    assert_eq!(flight.complete_at(), Some(1050 * MS));
    // Long idle, then one more request, whose gap is too long to be recorded.
    end(1_000_000);
    assert_eq!(around(&flight, 1_000_001 * MS), [960, 999, 1000, 1050]);
    let frozen = flight.frozen(1_000_001 * MS).unwrap();
    let first = frozen.requests().next().unwrap();
    let expected = Request { ended: 960 * MS, latency: 3e6, op: Op::Write, offset: 4096, failed: false };
    assert_eq!((frozen.number, frozen.at, frozen.cut, first), (1, 1000 * MS, false, expected));
    flight.switched(1_000_010 * MS);
    assert_eq!(around(&flight, 1_000_100 * MS), [1_000_000]);
    flight.switched(2_000_000 * MS);
    assert!(around(&flight, 2_000_100 * MS).is_empty());
}

#[test]
fn of_too_many_requests_the_nearest_to_the_switch_are_kept() {
    let flight = Flight::default();
    let end = |us: u64| flight.ended(Duration::from_micros(us), &request(Op::Read, MS));
    (0..200_000).for_each(end);
    flight.switched(Duration::from_micros(200_000));
    (200_000..260_000).for_each(end);
    let frozen = flight.frozen(260 * MS).unwrap();
    let times: Vec<_> = frozen.requests().map(|request| request.ended.as_micros() as u64).collect();
    assert!(frozen.cut);
    assert_eq!(times.len(), FROZEN);
    let half = FROZEN as u64 / 2;
    assert_eq!((times[0], times[FROZEN - 1]), (200_000 - half, 200_000 + half - 1));
}

#[test]
fn the_records_of_a_disk_take_two_mebibytes_at_most() {
    let rings = (recorder::KEPT + FROZEN) * size_of::<Record>() + KEPT * size_of::<Interval>();
    // Of `hdrhistogram`: 16 counters for each power of two, up to an hour of ns.
    let histograms = OPS.len() * 16 * 45 * size_of::<u32>();
    assert!(rings + histograms + size_of::<Flight>() <= 2 << 20, "{rings}");
}
