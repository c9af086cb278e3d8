use super::*;

/// A status of runs of `MARK` bytes each: `d` is data, `.` reads as zeros.
fn status(start: u64, runs: &str) -> Map {
    let run = |(n, kind): (usize, char)| (start + (n as u64 + 1) * MARK, kind == 'd');
    Map { start, runs: runs.chars().enumerate().map(run).collect() }
}

fn shown(map: &Map, marks: u64) -> String {
    let kind = |n: u64| match map.at(n * MARK, 1) {
        None => '?',
        Some(Extent { data: true, .. }) => 'd',
        Some(_) => '.',
    };
    (0..marks).map(kind).collect()
}

#[test]
fn what_is_written_counts_as_data_and_nothing_else_changes() {
    for (before, range, after) in [
        ("......", 2 * MARK..3 * MARK, "..d..."),
        ("......", 2 * MARK + 5..2 * MARK + 6, "..d..."),
        ("......", 0..6 * MARK, "dddddd"),
        ("......", 5 * MARK + 1..90 * MARK, ".....d"),
        (".d.d.d", MARK..4 * MARK, ".ddd.d"),
        ("d.....", 0..1, "d....."),
        ("......", 7 * MARK..8 * MARK, "......"),
        ("......", MARK..MARK, "......"),
    ] {
        let mut map = status(0, before);
        map.fill(&range);
        assert_eq!(shown(&map, 6), after, "{before} {range:?}");
        // Runs are as long as before, or longer.
        assert!(map.runs.is_sorted_by(|a, b| a.0 < b.0), "{:?}", map.runs);
    }
    let mut map = status(3 * MARK, "...");
    map.fill(&(0..4 * MARK));
    assert_eq!(shown(&map, 7), "???d..?");
    let mut map = Map::default();
    map.fill(&(0..MARK));
    assert_eq!(map.at(0, 1), None);
}

#[test]
fn a_change_during_the_question_is_not_forgotten() {
    let kept = Kept::default();
    kept.asks(0);
    drop(kept.writing(MARK, 1));
    drop(kept.writing(3 * MARK, 1));
    kept.keep(status(0, "......"));
    assert_eq!(shown(&kept.map.borrow(), 6), ".ddd..");
    kept.asks(0);
    assert_eq!(kept.at(0, 1, 0), None, "a question replaces what was known");
    drop(kept.clearing(0, MARK));
    kept.keep(status(0, "dddddd"));
    assert_eq!(kept.at(0, 1, 0), None);
    // What was cleared before a question is in its answer.
    kept.asks(0);
    kept.keep(status(0, ".ddddd"));
    assert_eq!(kept.at(0, 9, 0), Some(Extent { len: 9, data: false }));
    assert_eq!(kept.at(0, 9, 1), None, "another connection");
}
