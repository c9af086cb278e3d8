//! The commands of `cargo lab`, one in each file.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use lab::Experiment;
use lab::report::terminal::table;
use lab::results::Results;

pub mod calibrate;
mod host;
pub mod list;
pub mod replay;
pub mod results;
pub mod run;

/// The end of a command: an exit status, or an error for people.
pub type End = Result<ExitCode, Box<dyn Error>>;

/// Prints a text. A reader that has gone away, as `head` does, is not an error.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints the assertions of an experiment. The status is 1 if one does not hold, or if a copy went wrong.
pub fn check(experiment: &Experiment, results: &Results) -> ExitCode {
    let wrong = results.runs.iter().filter(|run| run.wrong_blocks > 0).count();
    if wrong > 0 {
        let text = "DEFECT: in this many runs a block did not hold what the guest wrote last";
        print(&format!("\n{text}: {wrong}; see the column wrong_blocks\n"));
        return ExitCode::FAILURE;
    }
    if experiment.assertions.is_empty() {
        return ExitCode::SUCCESS;
    }
    let mut rows = Vec::new();
    let mut failed = 0;
    for assertion in &experiment.assertions {
        let checked = assertion.check(&results.runs);
        failed += usize::from(!checked.holds);
        let word = if checked.holds { "holds" } else { "FAILS" };
        rows.push(vec![format!("{word}  {}", assertion.text), checked.seen]);
    }
    print(&format!("\nAssertions\n{}", table(&rows)));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
