use super::*;
use crate::results::Results;
use crate::results::tests::made_up;
use crate::schedule::Shard;

fn outcomes() -> (RunInfo, Vec<Outcome>) {
    let Results { info, runs, series } = made_up(Shard::ALL, "one");
    let of = |record: &crate::record::RunRecord| {
        let same = |line: &&crate::record::SeriesPoint| {
            (line.point, &line.strategy, line.seed) == (record.point, &record.strategy, record.seed)
        };
        Outcome { record: record.clone(), series: series.iter().filter(same).cloned().collect() }
    };
    let outcomes = runs.iter().map(of).collect();
    (info, outcomes)
}

#[test]
fn an_interruption_at_any_byte_loses_at_most_the_last_run() {
    let (info, all) = outcomes();
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(folder.path(), &info).unwrap();
    let mut ends = vec![std::fs::metadata(folder.path().join(NAME)).unwrap().len() as usize];
    for outcome in &all[..3] {
        journal.add(outcome).unwrap();
        ends.push(std::fs::metadata(folder.path().join(NAME)).unwrap().len() as usize);
    }
    let bytes = std::fs::read(folder.path().join(NAME)).unwrap();
    for cut in 0..=bytes.len() {
        std::fs::write(folder.path().join(NAME), &bytes[..cut]).unwrap();
        let (mut journal, runs) = Journal::resume(folder.path(), &info).unwrap();
        let whole = ends.iter().filter(|end| **end <= cut).count().saturating_sub(1);
        assert_eq!(runs.len(), whole, "cut at {cut}");
        for (found, expected) in runs.values().zip(&all) {
            assert_eq!(format!("{found:?}"), format!("{expected:?}"));
        }
        // The next run follows what is whole.
        journal.add(&all[5]).unwrap();
        let (_, runs) = Journal::resume(folder.path(), &info).unwrap();
        assert_eq!(runs.len(), whole + 1, "cut at {cut}");
    }
}

#[test]
fn only_the_same_experiment_goes_on() {
    let (info, _) = outcomes();
    let folder = tempfile::tempdir().unwrap();
    Journal::create(folder.path(), &info).unwrap();
    let refused = |changed: RunInfo, what: &str| {
        let text = Journal::resume(folder.path(), &changed).unwrap_err().to_string();
        assert!(text.contains(what) && text.contains("--out"), "{text}");
    };
    refused(RunInfo { text: "other".to_owned(), ..info.clone() }, "the experiment's file");
    refused(RunInfo { seeds: vec![9], ..info.clone() }, "seeds");
    refused(RunInfo { tier: "event".to_owned(), ..info.clone() }, "tier");
    refused(RunInfo { version: "2".to_owned(), ..info.clone() }, "version");
    refused(RunInfo { shard: "1/2".to_owned(), ..info.clone() }, "shard");
    refused(RunInfo { strategies: vec!["a".to_owned()], ..info.clone() }, "strategies");
    // Another host may go on.
    Journal::resume(folder.path(), &RunInfo { host: Vec::new(), ..info }).unwrap();
}

#[test]
fn nothing_is_overwritten() {
    let (info, _) = outcomes();
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::create(folder.path(), &info).unwrap();
    assert!(Journal::create(folder.path(), &info).unwrap_err().to_string().contains("--resume"));
    journal.remove().unwrap();
    made_up(Shard::ALL, "one").write(folder.path()).unwrap();
    assert!(Journal::create(folder.path(), &info).unwrap_err().to_string().contains("--out"));
}

#[test]
fn a_run_is_synced_unless_that_was_done_within_a_second() {
    let (info, all) = outcomes();
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(folder.path(), &info).unwrap();
    assert!(journal.synced.is_some(), "the description is synced");
    journal.sync = |_| Err(std::io::Error::other("the disk is gone"));
    // A time to come, so that a slow machine makes no difference.
    journal.synced = Some(Instant::now() + Duration::from_secs(3600));
    journal.add(&all[0]).unwrap();
    for due in [None, Instant::now().checked_sub(SYNC)] {
        journal.synced = due;
        let error = journal.add(&all[1]).unwrap_err().to_string();
        assert!(error.contains("sync") && error.contains("the disk is gone"), "{error}");
    }
    journal.sync = File::sync_data;
    journal.add(&all[1]).unwrap();
    assert!(journal.synced.is_some());
}
