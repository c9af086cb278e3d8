//! `lab` as its user sees it: files, texts and exit statuses.

use std::path::Path;
use std::process::{Command, Output, Stdio};

const EXPERIMENT: &str = r#"
name = "small"
[disk]
size = "4G"
[link]
rate = "1Gbit"
[workload]
preset = "oltp"
rate = 500
[strategies]
disk = ["mirror-io", "dbt", "hybrid(0.5)"]
[sweep]
"workload.rate" = [100, 1000]
[runs]
seeds = 6
[assert]
"mirror-io.converged" = "all"
"#;

fn lab(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.current_dir(folder).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Runs a command that has to succeed, and returns what it prints.
fn good(folder: &Path, arguments: &[&str]) -> String {
    let output = lab(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that has to fail with status 2, and returns its message.
fn bad(folder: &Path, arguments: &[&str]) -> String {
    let output = lab(folder, arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn folder_with(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("small.toml"), text).unwrap();
    folder
}

/// The bytes of both tables of a folder.
fn tables(folder: &Path) -> (String, String) {
    let read = |name| std::fs::read_to_string(folder.join(name)).unwrap();
    (read("runs.csv"), read("series.csv"))
}

#[test]
fn tables_have_the_same_bytes_whatever_the_number_of_threads_and_shards() {
    let folder = folder_with(EXPERIMENT);
    let at = folder.path();
    let text = good(at, &["run", "small.toml", "--threads", "1"]);
    assert!(text.contains("mirror-io") && text.contains("6/6") && text.contains("holds"), "{text}");
    let one = tables(&at.join("lab-results/small"));
    assert_eq!(one.0.lines().count(), 1 + 2 * 3 * 6);
    good(at, &["run", "small.toml", "--threads", "7", "--out", "many"]);
    assert_eq!(tables(&at.join("many")), one);
    for shard in ["1/4", "2/4", "3/4", "4/4"] {
        good(at, &["run", "small.toml", "--shard", shard, "--out", "parts"]);
    }
    let message = bad(at, &["merge", "parts/shard-4-of-4", "parts/shard-1-of-4", "--out", "joint"]);
    assert!(message.contains("2 of 4 shards are missing: 2/4, 3/4"), "{message}");
    let parts = [4, 2, 1, 3].map(|number| format!("parts/shard-{number}-of-4"));
    let mut arguments = vec!["merge", "--out", "joint"];
    arguments.extend(parts.iter().map(String::as_str));
    good(at, &arguments);
    assert_eq!(tables(&at.join("joint")), one);
    assert!(at.join("joint/report.html").exists());
    arguments.push(&parts[0]);
    arguments[2] = "other";
    let message = bad(at, &arguments);
    assert!(message.contains("4/4 is given twice"), "{message}");
}

#[test]
fn an_experiment_that_was_killed_goes_on() {
    let text = EXPERIMENT.replace("seeds = 6", "seeds = 150");
    let folder = folder_with(&text);
    let at = folder.path();
    let mut killed = Command::new(env!("CARGO_BIN_EXE_lab"))
        .current_dir(at)
        .args(["run", "small.toml", "--threads", "1", "--out", "killed"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let journal = at.join("killed/unfinished.journal");
    // The description alone is shorter than that; a run is about 60 KiB.
    while std::fs::metadata(&journal).map_or(0, |data| data.len()) < 100_000 {
        assert!(killed.try_wait().unwrap().is_none(), "the experiment ended before it could be killed");
        std::thread::yield_now();
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let kept = std::fs::metadata(&journal).unwrap().len();
    assert!(bad(at, &["run", "small.toml", "--out", "killed"]).contains("--resume"));
    assert!(bad(at, &["report", "killed"]).contains("not finished"));
    assert!(bad(at, &["run", "small.toml", "--out", "killed", "--seeds", "3", "--resume"]).contains("seeds"));
    assert_eq!(std::fs::metadata(&journal).unwrap().len(), kept, "a refusal changes nothing");
    good(at, &["run", "small.toml", "--out", "killed", "--resume"]);
    good(at, &["run", "small.toml", "--out", "whole"]);
    assert_eq!(tables(&at.join("killed")), tables(&at.join("whole")));
    assert!(!journal.exists());
    // Nothing is left to do.
    good(at, &["run", "small.toml", "--out", "killed", "--resume"]);
    assert!(bad(at, &["run", "small.toml", "--out", "killed"]).contains("has results already"));
}

#[test]
fn mistakes_in_an_experiment_are_named_with_their_line() {
    let folder = folder_with(EXPERIMENT);
    let at = folder.path();
    for (from, to, line, words) in [
        ("preset = \"oltp\"", "preste = \"oltp\"", 8, "did you mean 'preset'"),
        ("\"mirror-io\",", "\"miror-io\",", 11, "did you mean 'mirror-io'"),
        ("size = \"4G\"", "size = \"-4G\"", 4, "size"),
        ("rate = \"1Gbit\"", "rate = 5", 6, "rate"),
        ("[runs]", "[runz]", 14, "did you mean 'runs'"),
        ("converged\" = \"all\"", "convreged\" = \"all\"", 17, "did you mean 'converged'"),
        ("seeds = 6", "seeds = 0", 15, "seeds"),
        ("[disk]", "[disk", 3, ""),
    ] {
        assert!(EXPERIMENT.contains(from), "{from}");
        std::fs::write(at.join("wrong.toml"), EXPERIMENT.replacen(from, to, 1)).unwrap();
        let message = bad(at, &["run", "wrong.toml"]);
        assert!(message.starts_with(&format!("wrong.toml:{line}: ")), "{to}: {message}");
        assert!(message.contains(words) && message.lines().count() == 1, "{to}: {message}");
        assert!(!at.join("lab-results").exists());
    }
    let message = bad(at, &["run", "smal.toml"]);
    assert!(message.contains("smal.toml") && message.contains("did you mean small.toml"), "{message}");
    let message = bad(at, &["run", "small.toml", "--only", "mirror-oi"]);
    assert!(message.contains("did you mean 'mirror-io'"), "{message}");
    assert!(bad(at, &["run", "small.toml", "--shard", "5/4"]).contains("K/N"));
    assert!(bad(at, &["run", "small.toml", "--tier", "fluit"]).contains("fluid"));
    assert!(bad(at, &["run", "small.toml", "--out", "small.toml"]).contains("small.toml"));
    assert!(bad(at, &["report", "nowhere"]).contains("no results"));
    assert!(bad(at, &["figure", "exposur"]).contains("did you mean 'exposure'"));
}

#[test]
fn a_figure_is_printed_and_its_plot_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let text = good(at, &["figure", "postcopy-order", "--svg", "plot.svg"]);
    assert!(text.contains("holds  the boot is no slower with them"), "{text}");
    let svg = std::fs::read_to_string(at.join("plot.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("xmlns=") && svg.contains("postcopy-trace"), "{svg}");
    assert!(bad(at, &["figure", "postcopy-order", "--svg", "none/plot.svg"]).contains("none/plot.svg"));
    assert!(bad(at, &["figure", "--svg", "plot.svg"]).contains("NAME"));
}

#[test]
fn an_assertion_that_does_not_hold_is_status_1() {
    let folder = folder_with(&EXPERIMENT.replace("\"all\"", "\"none\""));
    let output = lab(folder.path(), &["run", "small.toml", "--seeds", "2"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("FAILS  mirror-io.converged none"), "{text}");
}

#[test]
fn runs_are_replayed_and_compared() {
    let folder = folder_with(EXPERIMENT);
    let at = folder.path();
    good(at, &["run", "small.toml", "--out", "a", "--only", "dbt,mirror-io"]);
    good(at, &["run", "small.toml", "--out", "b"]);
    let run = ["replay", "a", "--strategy", "dbt", "--seed", "3", "--point", "1"];
    assert!(good(at, &run).contains("the same as in runs.csv"));
    let dead = good(at, &[&run[..], &["--kill", "target", "--at", "1s"]].concat());
    assert!(dead.contains("with the death"), "{dead}");
    assert!(bad(at, &["replay", "a", "--strategy", "dbt", "--seed", "99"]).contains("no seed 99"));
    assert!(bad(at, &["replay", "a", "--strategy", "dbt", "--seed", "1", "--point", "9"]).contains("0 to 1"));
    assert!(bad(at, &["replay", "a", "--strategy", "dtb", "--seed", "1"]).contains("did you mean 'dbt'"));
    let text = good(at, &["compare", "a", "b"]);
    assert!(text.contains("equal") && text.contains("only in the second: hybrid(0.5)"), "{text}");
    // A line that was changed by hand is not what the seed gives.
    let path = at.join("a/runs.csv");
    let changed = std::fs::read_to_string(&path).unwrap().replacen(",moved,true,", ",moved,true,9", 1);
    std::fs::write(&path, changed).unwrap();
    let output = lab(at, &["replay", "a", "--strategy", "mirror-io", "--seed", "1"]);
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(1) && out.contains("DIFFERS"), "{out}");
}

/// The same experiment on the block layer itself.
#[test]
fn the_event_tier_has_the_same_bytes_on_threads_and_shards_and_is_resumed_and_replayed() {
    let text = EXPERIMENT.replace("4G", "64M").replace("seeds = 6", "seeds = 2\ntier = \"event\"");
    let folder = folder_with(&text.replace("[100, 1000]", "[50, 200]"));
    let at = folder.path();
    let text = good(at, &["run", "small.toml", "--threads", "1", "--out", "one"]);
    assert!(text.contains("us a MiB copied") && text.contains("holds"), "{text}");
    let one = tables(&at.join("one"));
    assert!(one.0.lines().skip(1).all(|line| line.contains(",event,moved,true,") && line.ends_with(",0")));
    for shard in ["1/2", "2/2"] {
        good(at, &["run", "small.toml", "--threads", "3", "--shard", shard, "--out", "parts"]);
    }
    good(at, &["merge", "--out", "joint", "parts/shard-2-of-2", "parts/shard-1-of-2"]);
    assert_eq!(tables(&at.join("joint")), one);
    // An interruption at any time.
    let killed = Command::new(env!("CARGO_BIN_EXE_lab"))
        .current_dir(at)
        .args(["run", "small.toml", "--threads", "1", "--out", "killed"])
        .stdout(Stdio::null())
        .spawn();
    let mut killed = killed.unwrap();
    let journal = at.join("killed/unfinished.journal");
    let mut ended = false;
    while std::fs::metadata(&journal).map_or(0, |data| data.len()) < 5000 && !ended {
        ended = killed.try_wait().unwrap().is_some();
        std::thread::yield_now();
    }
    let _ = killed.kill();
    killed.wait().unwrap();
    good(at, &["run", "small.toml", "--out", "killed", "--resume"]);
    assert_eq!(tables(&at.join("killed")), one);
    let replay = ["replay", "one", "--strategy", "hybrid(0.5)", "--seed", "2", "--point", "1"];
    assert!(good(at, &replay).contains("the same as in runs.csv"));
    let dead = good(at, &[&replay[..], &["--kill", "source", "--at", "200ms"]].concat());
    assert!(dead.contains("failed"), "{dead}");
    // The tier of an option is the one of the replay.
    good(at, &["run", "small.toml", "--tier", "fluid", "--out", "fluid"]);
    let fluid = ["replay", "fluid", "--strategy", "dbt", "--seed", "1"];
    assert!(good(at, &fluid).contains("the same as in runs.csv"));
    std::fs::write(at.join("no.toml"), EXPERIMENT.replace("\"dbt\"", "\"compose\"")).unwrap();
    let refused = bad(at, &["run", "no.toml", "--tier", "event"]);
    assert!(refused.contains("does not run compose") && refused.lines().count() == 1, "{refused}");
}

#[test]
fn a_model_is_calibrated_from_an_experiment_and_one_column() {
    let text = "name = \"x\"\n[ram]\nsize = \"8G\"\ndirty = \"77.5M/s\"\n[strategies]\nram = [\"precopy\"]\n";
    let folder = folder_with(text);
    let at = folder.path();
    let column = include_str!("../figures/kubevirt-291/without.toml");
    std::fs::write(at.join("column.toml"), column).unwrap();
    good(at, &["calibrate", "small.toml", "column.toml", "--out", "found.toml"]);
    let found = std::fs::read_to_string(at.join("found.toml")).unwrap();
    // What it writes is an experiment's sections.
    let whole = format!("name = \"y\"\n{found}[strategies]\nram = [\"precopy\"]\n[runs]\nseeds = 3\n");
    std::fs::write(at.join("whole.toml"), whole).unwrap();
    good(at, &["run", "whole.toml"]);
    assert!(
        bad(at, &["calibrate", "small.toml", "column.toml", "--out", "found.toml"]).contains("found.toml")
    );
    std::fs::write(at.join("wrong.toml"), column.replace("total_s", "totl_s")).unwrap();
    assert!(bad(at, &["calibrate", "small.toml", "wrong.toml"]).contains("total_s"));
    std::fs::write(at.join("more.toml"), format!("{column}more = 1\n")).unwrap();
    assert!(bad(at, &["calibrate", "small.toml", "more.toml"]).contains("more"));
    assert!(bad(at, &["calibrate", "small.toml", "no.toml"]).contains("no.toml"));
}
