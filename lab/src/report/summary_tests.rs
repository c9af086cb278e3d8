use super::*;
use crate::record::RunInfo;
use crate::statistics::Verdict;

fn run(strategy: &str, seed: u64, converged: bool, independence_s: f64) -> RunRecord {
    RunRecord { strategy: strategy.to_owned(), seed, converged, independence_s, ..RunRecord::default() }
}

fn results(runs: Vec<RunRecord>) -> Results {
    let mut strategies: Vec<String> = runs.iter().map(|run| run.strategy.clone()).collect();
    strategies.dedup();
    let info = RunInfo { strategies, points: vec![String::new()], ..RunInfo::default() };
    Results { info, runs, series: Vec::new() }
}

#[test]
fn strategies_that_always_move_the_guest_come_before_faster_ones() {
    let mut runs = Vec::new();
    for seed in 0..4 {
        runs.push(run("sometimes", seed, seed > 0, 1.0));
    }
    for seed in 0..4 {
        runs.push(run("slow", seed, true, 9.0));
    }
    for seed in 0..4 {
        runs.push(run("fast", seed, true, 5.0));
    }
    let rows = ranking(&results(runs), 0);
    let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["fast", "slow", "sometimes"]);
    assert_eq!((rows[2].moved, rows[2].runs), (3, 4));
}

#[test]
fn a_guest_that_did_not_move_is_never_independent() {
    let rows = ranking(&results(vec![run("a", 1, false, 3.0)]), 0);
    assert_eq!(rows[0].values[0].median, f64::INFINITY);
}

#[test]
fn all_metrics_are_corrected_together() {
    let runs = |name: &'static str, value: f64| (0..6).map(move |seed| (name.to_owned(), seed, value));
    let all: Vec<RunRecord> = runs("a", 1.0)
        .chain(runs("b", 2.0))
        .map(|(name, seed, value)| run(&name, seed, true, value))
        .collect();
    let found = differences(&results(all));
    assert_eq!(found.len(), COMPARED.len());
    // Six pairs give 1/32 at best, which five comparisons make too much.
    assert!((found[0][0].p - 1.0 / 32.0).abs() < 1e-12);
    assert!((found[0][0].adjusted - 5.0 / 32.0).abs() < 1e-12);
}

#[test]
fn a_report_says_which_strategies_are_shipped_code() {
    assert_eq!(code("mirror-io"), "shipped");
    assert_eq!(code("dbt"), "model");
    assert_eq!(code("mirror-behind(64M)"), "shipped");
    assert_eq!(code("mirror-io+precopy"), "in part");
    assert_eq!(code("my-own"), "own");
    assert_eq!(presets("hybrid(0.5)+hybrid").len(), 2);
}

#[test]
fn twenty_points_of_one_seed_are_too_few_runs() {
    let mut all = Vec::new();
    for (name, value) in [("a", 1.0), ("b", 2.0)] {
        all.extend((0..20).map(|point| RunRecord { point, ..run(name, 1, true, value) }));
    }
    let mut both = results(all);
    both.info.points = (0..20).map(|point| format!("x={point}")).collect();
    let found = differences(&both);
    assert!(found.iter().flatten().all(|comparison| comparison.verdict == Verdict::TooFewRuns), "{found:?}");
}
