//! `cargo sim`: replays seeds of the simulator's scenarios, and runs many of them.
//!
//! A scenario is a test of the crate `block` (in `block/src/tests/`) that calls `seeds`: disks, jobs,
//! switches and power cuts on simulated files, where everything that happens follows from the seed.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "\
Replays a seed of one of the simulator's scenarios, or runs many seeds.

Usage:
  cargo sim -- list                     Lists the scenarios
  cargo sim -- SCENARIO SEED            Replays one seed and prints what happens to the simulated files
  cargo sim -- SCENARIO --seeds COUNT   Runs the seeds from 0 on; names the first that fails";

fn main() -> ExitCode {
    // The alias ends with '--' already, so that options reach this program; one more is harmless.
    let arguments: Vec<String> = std::env::args().skip(1).skip_while(|argument| argument == "--").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["list"] => scenarios().map(|names| {
            for name in names {
                println!("{name}");
            }
            ExitCode::SUCCESS
        }),
        ["--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        [scenario, "--seeds", count] => run(scenario, Seeds::Many, count),
        [scenario, seed] => run(scenario, Seeds::One, seed),
        _ => Err(USAGE.to_owned()),
    };
    result.unwrap_or_else(|text| {
        eprintln!("{text}");
        ExitCode::FAILURE
    })
}

#[derive(PartialEq, Eq)]
enum Seeds {
    One,
    Many,
}

/// Runs one scenario by the test program that holds it. Many seeds run in a release build; one seed in the
/// build of the tests, which is quicker to make and checks arithmetic.
fn run(scenario: &str, seeds: Seeds, number: &str) -> Result<ExitCode, String> {
    let _: u64 = number.parse().map_err(|_| format!("'{number}' is not a number\n\n{USAGE}"))?;
    let all = scenarios()?;
    let scenario = find(scenario, &all)?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace()).args(["test", "--quiet", "--package", "block", "--lib"]);
    match seeds {
        Seeds::One => cargo.env("MILLRACE_SEED", number).env("MILLRACE_SIM_TRACE", "1"),
        Seeds::Many => cargo.arg("--release").env("MILLRACE_SEEDS", number).env_remove("MILLRACE_SEED"),
    };
    cargo.args(["--", "--exact", "--nocapture", &format!("tests::{scenario}")]);
    let status = cargo.status().map_err(|e| format!("cargo: {e}"))?;
    println!("{scenario}: {}", if status.success() { "passed" } else { "FAILED" });
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The one scenario that is called `name`, with or without its module, or whose name contains it.
fn find<'a>(name: &str, all: &'a [String]) -> Result<&'a str, String> {
    let bare = |full: &'a String| full.rsplit("::").next().unwrap_or(full);
    let exact: Vec<_> = all.iter().filter(|full| *full == name || bare(full) == name).collect();
    let found =
        if exact.is_empty() { all.iter().filter(|full| full.contains(name)).collect() } else { exact };
    match found[..] {
        [one] => Ok(one),
        [] => Err(format!("no scenario is called '{name}'; 'cargo sim -- list' lists them")),
        _ => Err(format!(
            "'{name}' is ambiguous: {}",
            found.into_iter().cloned().collect::<Vec<_>>().join(", ")
        )),
    }
}

/// The names of all scenarios, as in `faults::a_failed_sync_is_never_forgotten`.
fn scenarios() -> Result<Vec<String>, String> {
    let source = workspace().join("block/src");
    let mut names = scenarios_of(&source.join("tests.rs"), "")?;
    let folder = source.join("tests");
    let entries = folder.read_dir().map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    for file in files {
        let module = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        names.extend(scenarios_of(&file, &format!("{module}::"))?);
    }
    Ok(names)
}

fn scenarios_of(file: &Path, module: &str) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    Ok(names_in(&text).into_iter().map(|name| format!("{module}{name}")).collect())
}

/// The tests in a source file that run seeds.
fn names_in(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for test in text.split("#[test]\n").skip(1) {
        let body = test.split("\n}\n").next().unwrap_or(test);
        let name = body.strip_prefix("fn ").and_then(|rest| rest.split('(').next());
        names.extend(name.filter(|_| body.contains("seeds(")));
    }
    names
}

fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package)
}

#[cfg(test)]
#[path = "main_tests.rs"]
mod tests;
