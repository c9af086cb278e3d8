use super::*;

const MIB: u64 = 1 << 20;

/// Lets steps pass for `seconds` on a clock that wakes up late by `late`. Returns the number of bytes
/// that passed.
fn pass(pace: &Pace, from: Duration, seconds: u64, late: Duration) -> u64 {
    let (mut now, mut passed) = (from, 0);
    while now < from + Duration::from_secs(seconds) {
        if let Some(wait) = pace.wait(now) {
            now += wait + late;
            continue;
        }
        let step = pace.step(MIB);
        pace.take(now, step);
        passed += step;
    }
    passed
}

#[test]
fn what_passes_in_a_while_is_the_speed() {
    for speed in [1, 10, 4096, 65_537, MIB, 100 * MIB] {
        for late in [0, 1, 20] {
            let pace = Pace::default();
            pace.set_speed(Duration::from_secs(5), speed);
            let passed = pass(&pace, Duration::from_secs(5), 100, Duration::from_millis(late));
            let (low, high) = (99 * speed, 101 * speed + MIB);
            assert!((low..=high).contains(&passed), "{speed} late by {late}: {passed} in 100 s");
        }
    }
}

#[test]
fn idle_time_is_no_credit() {
    let pace = Pace::default();
    pace.set_speed(Duration::ZERO, MIB);
    // An hour of pause, then no more than the speed and the slack.
    let passed = pass(&pace, Duration::from_secs(3600), 1, Duration::ZERO);
    assert!(passed <= MIB + MIB / 4 + MIB / 8, "{passed}");
}

#[test]
fn a_new_speed_counts_at_once() {
    let pace = Pace::default();
    pace.set_speed(Duration::ZERO, 1);
    pace.take(Duration::ZERO, 1000);
    assert_eq!(pace.wait(Duration::ZERO), Some(Duration::from_secs(1000)));
    pace.set_speed(Duration::ZERO, 1000);
    assert!(pace.wait(Duration::ZERO).is_some_and(|wait| wait <= Duration::from_secs(1)));
    pace.set_speed(Duration::ZERO, 0);
    assert_eq!(pace.wait(Duration::ZERO), None);
    assert_eq!(pace.step(MIB), MIB);
    pace.set_speed(Duration::ZERO, 1);
    assert_eq!(pace.wait(Duration::ZERO), None, "nothing is owed from the time without a limit");
}
