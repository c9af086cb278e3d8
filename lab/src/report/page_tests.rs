use super::*;
use crate::record::{RunInfo, RunRecord};

#[test]
fn seeds_are_short() {
    assert_eq!(seeds(&[1, 2, 3, 4]), "4 (1 to 4)");
    assert_eq!(seeds(&[1, 5, 9]), "1, 5, 9");
    assert_eq!(seeds(&[7]), "7");
}

#[test]
fn names_of_an_experiment_cannot_change_the_page() {
    let text = "name = \"</title><script>alert(1)</script>\"\n[disk]\nsize = \"1G\"\n[strategies]\ndisk = [\"dbt\"]\n";
    let info = RunInfo {
        experiment: "</title><script>alert(1)</script>".to_owned(),
        text: text.to_owned(),
        strategies: vec!["<b>".to_owned()],
        points: vec!["<i>".to_owned()],
        seeds: vec![1],
        ..RunInfo::default()
    };
    let runs = vec![RunRecord { strategy: "<b>".to_owned(), seed: 1, ..RunRecord::default() }];
    let results = Results { info, runs, series: Vec::new() };
    let page = Page::new(Path::new("a folder's"), &results, None).unwrap();
    let html = page.html().unwrap();
    for wrong in ["<script", "<b>", "<i>"] {
        assert!(!html.contains(wrong), "{wrong}");
    }
    // The shell reads the folder as it is.
    assert!(page.replays[0].command.contains(r"'a folder'\''s'"), "{}", page.replays[0].command);
}

#[test]
fn a_difference_that_is_mostly_infinite_is_printed_as_never() {
    let mut runs = Vec::new();
    for seed in 0..15 {
        let run = |strategy: &str, converged, independence_s| RunRecord {
            strategy: strategy.to_owned(),
            seed,
            converged,
            independence_s,
            ..RunRecord::default()
        };
        runs.extend([run("a", true, 10.0), run("b", seed >= 8, 7.0)]);
    }
    let strategies = vec!["a".to_owned(), "b".to_owned()];
    let results = Results { info: RunInfo { strategies, ..RunInfo::default() }, runs, series: Vec::new() };
    let matrix = matrix(&results, COMPARED[0], &differences(&results)[0]);
    let texts: Vec<&str> =
        matrix.rows.iter().flat_map(|row| row.2.iter().map(|cell| cell.text.as_str())).collect();
    assert_eq!(texts, ["", "ends", "never", ""]);
}
