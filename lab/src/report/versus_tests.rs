use super::*;
use crate::record::{RunInfo, RunRecord};

fn results(strategy: &str, total: impl Fn(u64) -> f64) -> Results {
    let runs = (1..=12).map(|seed| RunRecord {
        strategy: strategy.to_owned(),
        seed,
        converged: true,
        total_s: total(seed),
        ..RunRecord::default()
    });
    let info = RunInfo { strategies: vec![strategy.to_owned()], ..RunInfo::default() };
    Results { info, runs: runs.collect(), series: Vec::new() }
}

#[test]
fn a_change_for_the_worse_is_shown_and_no_change_is_called_equal() {
    let before = results("a", |seed| seed as f64);
    let after = results("a", |seed| seed as f64 + 2.0);
    let lines = versus(&before, &after);
    let of = |metric: &str| lines.iter().find(|line| line.metric == metric).unwrap();
    assert_eq!(of("total time").verdict(), "the second is larger");
    assert_eq!(of("total time").comparison.difference.unwrap().median, 2.0);
    assert_eq!(of("blackout").verdict(), "equal");
    assert!(text(&before, &after).contains("the second is larger"));
}

#[test]
fn what_only_one_has_is_named() {
    let text = text(&results("a", |_| 1.0), &results("b", |_| 1.0));
    assert!(text.contains("only in the first: a") && text.contains("only in the second: b"), "{text}");
}

#[test]
fn a_side_that_never_ends_is_called_so() {
    let text = text(&results("a", |_| 1.0), &results("a", |seed| if seed > 2 { f64::INFINITY } else { 2.0 }));
    let line = text.lines().find(|line| line.contains("total time")).unwrap();
    assert!(line.contains("never to never") && line.contains("the second is larger"), "{line}");
    let back = super::text(&results("a", |_| f64::INFINITY), &results("a", |_| 1.0));
    let line = back.lines().find(|line| line.contains("total time")).unwrap();
    assert!(line.contains("ends to ends") && line.contains("the second is smaller"), "{line}");
}
