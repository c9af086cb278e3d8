//! Events that wait, events that are dropped, and the keys that a guest takes for pressed.

use super::*;
use crate::codes::{BTN_LEFT, REL_WHEEL};

const KEY_A: u16 = 30;

fn active() -> Feed {
    let feed = Feed::new().unwrap();
    feed.restart(true);
    feed
}

/// Takes everything, and returns the events without their ends as (kind, code, value).
fn taken(feed: &Feed) -> Vec<(u16, u16, u32)> {
    let all: Vec<_> = std::iter::from_fn(|| feed.take()).collect();
    assert!(all.last().is_none_or(|last| *last == Event::END));
    all.iter()
        .filter(|event| **event != Event::END)
        .map(|event| (event.kind, event.code, event.value))
        .collect()
}

#[test]
fn keys_go_down_repeat_and_go_up() {
    let feed = active();
    feed.key(KEY_A, false);
    assert!(!feed.is_waiting(), "it is up already");
    for down in [true, true, false, false] {
        feed.key(KEY_A, down);
    }
    assert_eq!(taken(&feed), [(1, KEY_A, 1), (1, KEY_A, 2), (1, KEY_A, 0)]);
    feed.key(BTN_LEFT, true);
    feed.key(BTN_LEFT, true);
    assert_eq!(taken(&feed), [(1, BTN_LEFT, 1)], "a button does not repeat");
    for code in [0, 249, 0x10f, 0x115, u16::MAX] {
        feed.key(code, true);
    }
    assert!(!feed.is_waiting(), "no device has these");
    feed.key(1, true);
    feed.release_all();
    assert_eq!(taken(&feed), [(1, 1, 1), (1, 1, 0), (1, BTN_LEFT, 0)]);
}

#[test]
fn a_guest_that_takes_nothing_loses_presses_but_no_release() {
    let feed = active();
    let held = [2, 3, 4, BTN_LEFT];
    assert!(held.iter().all(|code| feed.key(*code, true)));
    for step in 0..10_000 {
        feed.wheel(Axis::Vertical, step);
        feed.key(KEY_A, step % 2 == 0);
        feed.point(step as u32, 7);
    }
    assert!(held.iter().all(|code| feed.key(*code, false)));
    let count = feed.state().waiting.len();
    assert!(count <= WAITING_MAX + 2 * held.len() + 6, "{count} events");
    let mut down = BTreeSet::new();
    for (kind, code, value) in taken(&feed) {
        match (kind, value) {
            (1, 0) => assert!(down.remove(&code)),
            (1, _) => _ = down.insert(code),
            _ => {}
        }
    }
    assert!(down.is_empty(), "{down:?} stay down");
}

#[test]
fn of_moves_without_anything_between_only_the_last_waits() {
    let feed = active();
    feed.point(1, 2);
    feed.point(3, u32::MAX);
    feed.key(BTN_LEFT, true);
    feed.point(5, 6);
    feed.point(7, 8);
    let expected = [(3, 0, 3), (3, 1, ABS_MAX), (1, BTN_LEFT, 1), (3, 0, 7), (3, 1, 8)];
    assert_eq!(taken(&feed), expected);
    // A move that the guest has begun to take is completed.
    feed.point(1, 2);
    let first = feed.take().unwrap();
    feed.point(3, 4);
    assert_eq!((first.code, first.value), (0, 1));
    assert_eq!(taken(&feed), [(3, 1, 2), (3, 0, 3), (3, 1, 4)]);
    feed.wheel(Axis::Vertical, -1);
    assert_eq!(taken(&feed), [(2, REL_WHEEL, u32::MAX)]);
}

#[test]
fn without_a_driver_nothing_waits_and_a_new_one_finds_no_key_down() {
    let feed = Feed::new().unwrap();
    feed.key(KEY_A, true);
    feed.point(1, 1);
    feed.wheel(Axis::Horizontal, 1);
    assert!(!feed.is_waiting());
    feed.restart(true);
    feed.key(KEY_A, true);
    feed.restart(false);
    feed.restart(true);
    feed.key(KEY_A, false);
    assert!(!feed.is_waiting());
    feed.key(KEY_A, true);
    assert_eq!(taken(&feed), [(1, KEY_A, 1)]);
}

#[test]
fn whoever_sends_learns_that_an_event_was_dropped_and_can_ask_before() {
    let feed = active();
    let room = WAITING_MAX.div_ceil(3);
    assert!(feed.has_room(room) && !feed.has_room(room + 1) && !feed.has_room(usize::MAX));
    // Of the largest kind, which nothing replaces.
    for _ in 0..room {
        feed.state().ends_in_move = false;
        assert!(feed.point(1, 1));
    }
    feed.state().ends_in_move = false;
    let count = feed.state().waiting.len();
    assert!(feed.has_room(0) && !feed.has_room(1));
    assert!(!feed.point(1, 1) && !feed.key(KEY_A, true) && !feed.wheel(Axis::Vertical, 1));
    assert!(feed.key(KEY_A, false), "it is up already");
    assert_eq!(feed.state().waiting.len(), count);
    // Nothing waits for a guest without a driver.
    feed.restart(false);
    assert!(feed.has_room(usize::MAX));
    assert!(feed.point(1, 1) && feed.key(KEY_A, true) && feed.wheel(Axis::Vertical, 1));
    assert!(!feed.is_waiting());
}
