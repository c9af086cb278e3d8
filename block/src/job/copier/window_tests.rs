//! Storages of different kinds, and the depth that a window finds for them.

use super::*;
use crate::job::copier::GENTLE;

fn no_latencies() -> Latencies {
    Latencies::new(2).unwrap()
}

/// Simulates a storage whose rate at each depth is known. Returns the depth that was used most.
fn settles(rate: impl Fn(u64) -> f64) -> u64 {
    let window = Window::new(GENTLE);
    let mut now = 0.0;
    let mut used = [0; SLOTS as usize + 1];
    for _ in 0..20_000 {
        let depth = SLOTS / window.slots(window.chunk());
        now += window.chunk() as f64 / rate(depth);
        used[depth as usize] += 1;
        let copied = window.chunk();
        window.copied(Duration::from_secs_f64(now), Populated { copied, ..Populated::default() });
    }
    (1..used.len()).max_by_key(|depth| used[*depth]).unwrap_or(0) as u64
}

#[test]
fn it_finds_the_depth_that_is_fastest() {
    assert_eq!(settles(|depth| [0.0, 1e9, 8e8, 0.0, 7e8, 0.0, 0.0, 0.0, 6e8][depth as usize]), 1);
    assert_eq!(settles(|depth| [0.0, 5e8, 1e9, 0.0, 8e8, 0.0, 0.0, 0.0, 7e8][depth as usize]), 2);
    assert_eq!(settles(|depth| 1e8 * depth as f64), 8);
    // Without a gain there is no reason for more.
    assert_eq!(settles(|_| 1e9), 4);
}

#[test]
fn small_copies_take_a_part_of_the_slots() {
    let window = Window::new(GENTLE);
    window.set_gentle(true, Duration::ZERO, 0, no_latencies);
    let chunk = window.chunk();
    assert_eq!([chunk, chunk / 2, chunk / 4, 1].map(|bytes| window.slots(bytes)), [8, 4, 2, 1]);
    assert_eq!(window.slots(64 * chunk), 8);
}

#[test]
fn a_guest_at_work_gets_one_small_copy_first() {
    let window = Window::new(GENTLE);
    let alone = window.chunk();
    window.set_gentle(true, Duration::ZERO, 0, no_latencies);
    assert!(window.chunk() < alone && window.slots(window.chunk()) == SLOTS);
    window.set_gentle(false, Duration::ZERO, 0, no_latencies);
    assert!(window.chunk() == alone && window.slots(window.chunk()) < SLOTS);
}
