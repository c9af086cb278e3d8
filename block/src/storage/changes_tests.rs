//! The log of changed ranges and its bounds.

use super::*;

/// The starts and ends of the ranges that have changed.
fn all(changes: &Changes, mut since: u64) -> Result<Vec<(u64, u64)>, TooOld> {
    let mut found = Vec::new();
    while let Some((range, next)) = changes.since(since)? {
        found.push((range.start, range.end));
        since = next;
    }
    Ok(found)
}

#[test]
fn neighbours_are_one_entry_until_somebody_asks() {
    let changes = Changes::default();
    changes.note(0..7);
    assert_eq!(changes.since(0), Err(TooOld), "nobody has asked yet");
    let start = changes.generation();
    changes.note(0..10);
    changes.note(10..20);
    changes.note(30..40);
    assert_eq!(all(&changes, start), Ok(vec![(0, 20), (30, 40)]));
    let then = changes.generation();
    changes.note(40..50);
    assert_eq!(all(&changes, then), Ok(vec![(40, 50)]));
    assert_eq!(all(&changes, start), Ok(vec![(0, 20), (30, 40), (40, 50)]));
    assert_eq!(all(&changes, changes.generation()), Ok(vec![]));
}

#[test]
fn who_asks_too_rarely_begins_again() {
    let changes = Changes::default();
    let start = changes.generation();
    (0..KEPT as u64).for_each(|at| changes.note(2 * at..2 * at + 1));
    assert_eq!(all(&changes, start).map(|all| all.len()), Ok(KEPT));
    changes.note(9_000_000..9_000_001);
    assert_eq!(changes.since(start), Err(TooOld));
    let now = changes.generation();
    changes.restart();
    assert_eq!(changes.since(now), Err(TooOld));
    assert_eq!(changes.since(u64::MAX), Err(TooOld), "of another log");
}

#[test]
fn a_log_that_nobody_reads_ends_and_begins_again() {
    let changes = Changes::default();
    let start = changes.generation();
    (0..=UNASKED as u64).for_each(|at| changes.note(2 * at..2 * at + 1));
    assert_eq!(changes.entries.borrow().capacity(), 0, "its memory is given back");
    assert_eq!(changes.since(start), Err(TooOld));
    let again = changes.generation();
    changes.note(1..2);
    assert_eq!(all(&changes, again), Ok(vec![(1, 2)]));
}
