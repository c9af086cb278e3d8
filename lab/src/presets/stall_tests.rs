use super::*;
use crate::policy::{Limits, SpaceSeen};

/// Ends a round each second, with this many seconds of sending left by the time. Returns the time at which
/// the strategy ends, and whether it moves the guest; `None` if it does neither within ten minutes.
fn end(left: impl Fn(u32) -> f64) -> Option<(u32, bool)> {
    let mut policy = LocalMinimum::new();
    let rate = 125e6;
    for second in 0..600 {
        let own = SpaceSeen {
            todo: (left(second) * rate) as u64,
            rounds: second,
            copied_rate: rate,
            ..SpaceSeen::default()
        };
        let limits = Limits { downtime: 0.3, ..Limits::default() };
        let seen = Seen { now: f64::from(second), own, limits, ..Seen::default() };
        match policy.tick(&seen).last() {
            Some(Order::Pivot { stale: Stale::Copy }) => return Some((second, true)),
            Some(Order::Abort) => return Some((second, false)),
            last => assert_eq!(last, Some(&Order::FreezeRound)),
        }
    }
    None
}

#[test]
fn a_stall_of_a_minute_raises_the_limit_to_900_ms() {
    assert_eq!(end(|_| 0.8), Some((61, true)));
    assert_eq!(end(|_| 0.25), Some((1, true)));
}

#[test]
fn slow_progress_is_no_stall() {
    assert_eq!(
        end(|second| if second < 300 { 20.0 * 0.99_f64.powi(second as i32) } else { 0.2 }),
        Some((300, true))
    );
}

#[test]
fn a_minimum_above_900_ms_has_another_minute_and_one_above_1350_ms_none() {
    assert_eq!(end(|_| 1.2), Some((121, false)));
    assert_eq!(end(|second| if second == 80 { 0.85 } else { 1.2 }), Some((80, true)));
    assert_eq!(end(|_| 1.4), Some((61, false)));
}

#[test]
fn it_moves_at_a_local_minimum_or_four_percent_above() {
    let wave = |second: u32| if second % 5 == 3 { 0.5 } else { 0.85 };
    assert_eq!(end(wave), Some((63, true)));
    assert_eq!(
        end(|second| if second == 64 {
            0.519
        } else if second > 62 {
            0.85
        } else {
            wave(second)
        }),
        Some((64, true))
    );
}

#[test]
fn a_minimum_that_does_not_come_again_is_given_up_after_a_minute() {
    // Best is what was left after the first round; from then on it is more.
    let left = |second: u32| if second == 1 { 0.6 } else { 0.8 };
    assert_eq!(end(left), Some((121, true)));
    // The next best is waited for for half as long.
    let left = |second: u32| match second {
        1 => 0.6,
        70 => 0.7,
        _ => 0.8,
    };
    assert_eq!(end(left), Some((151, true)));
}
