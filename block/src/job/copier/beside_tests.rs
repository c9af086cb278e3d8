//! Guests beside copies: some that a device has room for, and some that it has not.

use super::*;
use crate::job::copier::GENTLE;

fn latencies() -> Latencies {
    Histogram::new_with_bounds(1, 100_000_000_000, 2).unwrap()
}

/// Lets a guest with this latency, which depends on the copies in flight and their size, work beside copies.
/// Returns the share of the time that each step was used for.
fn shares(latency: impl Fn(u64, u64) -> f64) -> [f64; STEPS.len()] {
    let (beside, mut all, mut now) = (Beside::new(GENTLE), latencies(), 0.0);
    let mut used = [0.0; STEPS.len()];
    for _ in 0..200_000 {
        let took = latency(SLOTS / beside.slots(), beside.chunk());
        used[beside.step.get()] += took;
        now += took;
        all += (took * 1e9) as u64;
        beside.look(Duration::from_secs_f64(now), all.len(), || all.clone());
    }
    used.map(|used| used / now)
}

#[test]
fn a_guest_that_feels_nothing_gets_the_largest_copies() {
    assert!(shares(|_, _| 1e-4)[STEPS.len() - 1] > 0.95);
}

#[test]
fn a_guest_that_waits_for_each_byte_gets_small_copies() {
    // 128 KiB take as long as the request itself, and each request waits for what is in flight.
    let shares = shares(|copies, chunk| 1e-4 * (1.0 + (copies * chunk) as f64 / 131_072.0));
    assert!(shares[0] + shares[1] + shares[2] > 0.98, "{shares:?}");
    assert!(shares[2] < 0.15, "{shares:?}");
}

#[test]
fn the_step_follows_a_guest_that_changes() {
    let (beside, mut all, mut now) = (Beside::new(GENTLE), latencies(), Duration::ZERO);
    let mut run = |requests, latency: &dyn Fn(u64) -> u64| {
        for _ in 0..requests {
            let took = Duration::from_micros(latency(beside.chunk()));
            now += took;
            all += took.as_nanos() as u64;
            beside.look(now, all.len(), || all.clone());
        }
        beside.chunk()
    };
    assert_eq!(run(10_000, &|_| 100), 1 << 20);
    // Its requests become larger, and no step makes a difference.
    run(60_000, &|_| 1000);
    assert_eq!(run(1000, &|_| 1000), 1 << 20);
    // The device gets slow.
    assert!(run(60_000, &|chunk| chunk >> 8) <= 256 << 10);
}

#[test]
fn few_requests_are_enough_in_the_end() {
    let (beside, mut all) = (Beside::new(GENTLE), latencies());
    for n in 0..100 {
        all += 100_000;
        beside.look(Duration::from_millis(100) * n, all.len(), || all.clone());
    }
    assert_eq!(beside.chunk(), 1 << 20);
}

/// One request of fifty takes a hundred times as long, whatever the copies do.
#[test]
fn a_device_that_hesitates_now_and_then_is_used_all_the_same() {
    let (beside, mut all, mut now) = (Beside::new(GENTLE), latencies(), Duration::ZERO);
    let mut largest = 0;
    for n in 0..50_000u64 {
        let took = Duration::from_micros(if (n * 7919) % 50 == 0 { 10_000 } else { 100 });
        now += took;
        all += took.as_nanos() as u64;
        beside.look(now, all.len(), || all.clone());
        largest += u64::from(beside.chunk() == 1 << 20);
    }
    assert!(largest > 45_000, "{largest}");
}
