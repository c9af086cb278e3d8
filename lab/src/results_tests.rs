use super::*;

/// Results of a made-up experiment: a shard of 2 points, 2 strategies and 3 seeds, with values that follow
/// from the run. `name` becomes part of the text, as in an edited file.
pub(super) fn made_up(shard: Shard, name: &str) -> Results {
    let info = RunInfo {
        experiment: name.to_owned(),
        text: format!("name = \"{name}\"\n"),
        version: "1".to_owned(),
        tier: "fluid".to_owned(),
        seeds: vec![1, 2, 3],
        strategies: vec!["a, \"quoted\"".to_owned(), "b\nc".to_owned()],
        points: vec!["x=1".to_owned(), "x=2".to_owned()],
        shard: shard.to_string(),
        host: vec![("cpu".to_owned(), format!("of {shard}"))],
        runs: 0,
    };
    let outcome = |job: Job| {
        let strategy = info.strategies[job.strategy].clone();
        let record = RunRecord {
            point: job.point,
            strategy: strategy.clone(),
            seed: job.seed,
            total_s: if job.seed == 2 { f64::INFINITY } else { 1.0 / (job.seed as f64 + job.point as f64) },
            fault_p50_us: f64::NAN,
            converged: job.seed != 2,
            sent_bytes: u64::MAX,
            ..RunRecord::default()
        };
        let line = |t| SeriesPoint {
            point: job.point,
            strategy: strategy.clone(),
            seed: job.seed,
            t_s: f64::from(t) / 3.0,
            ..SeriesPoint::default()
        };
        (job, Outcome { record, series: (0..4).map(line).collect() })
    };
    let outcomes = Results::expected(&info).unwrap().into_iter().map(outcome).collect();
    Results::new(info, outcomes)
}

/// NaN is not equal to itself, so results are compared as they are written.
pub(super) fn same(a: &Results, b: &Results) -> bool {
    format!("{a:?}") == format!("{b:?}")
}

#[test]
fn results_are_read_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let results = made_up(Shard::ALL, "one");
    results.write(folder.path()).unwrap();
    assert!(same(&Results::read(folder.path()).unwrap(), &results));
    let mut names: Vec<_> =
        folder.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["run.json", "runs.csv", "series.csv"]);
}

#[test]
fn a_folder_without_results_is_an_error_with_the_way_on() {
    let folder = tempfile::tempdir().unwrap();
    let text = Results::read(folder.path()).unwrap_err().to_string();
    assert!(text.contains("run.json is missing"), "{text}");
    Journal::create(folder.path(), &made_up(Shard::ALL, "one").info).unwrap();
    let text = Results::read(folder.path()).unwrap_err().to_string();
    assert!(text.contains("not finished") && text.contains("--resume"), "{text}");
}

#[test]
fn runs_that_are_missing_or_damaged_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    made_up(Shard::ALL, "one").write(folder.path()).unwrap();
    let path = folder.path().join(RUNS);
    let text = std::fs::read_to_string(&path).unwrap();
    let line = text.find("\n\"a, ").map_or(text.len() - 10, |at| at);
    for (changed, reason) in [
        (text[..text.trim_end().rfind('\n').unwrap_or(line) + 1].to_owned(), "not all"),
        (text.replacen("inf", "soon", 1), "invalid float"),
    ] {
        std::fs::write(&path, changed).unwrap();
        let error = Results::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("runs.csv"), "{error}");
        assert!(error.contains(reason) || error.contains("record"), "{error}");
    }
}
