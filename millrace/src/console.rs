//! `--monitor stdio`: the text monitor (HMP) on standard input and output, with line editing and history on
//! a terminal.
//!
//! A thread of its own reads the lines, which may wait for the user forever; the commands run on the main
//! loop.

use std::io::{self, BufRead, IsTerminal, Write};
use std::rc::Rc;

use executor::Handle;
use qmp::{Monitor, hmp};
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{CompletionType, Config, Context, Editor, Helper, Highlighter, Hinter, Validator};

use super::Failure;
use vmm::serial;

/// Serves the text monitor on standard input and output until the input ends.
pub(super) fn start(monitor: &Rc<Monitor>) -> Result<(), Failure> {
    let monitor = Handle::new(monitor);
    // The editor's raw mode must not outlive a program that ends while somebody types.
    serial::save_terminal();
    let read = move || if io::stdin().is_terminal() { edited(&monitor) } else { plain(&monitor) };
    std::thread::Builder::new().name("monitor".into()).spawn(read).map_err(|e| format!("--monitor: {e}"))?;
    Ok(())
}

/// Runs a line on the main loop. Returns `None` if the main loop has ended.
fn run(monitor: &Handle<Monitor>, line: String) -> Option<String> {
    monitor.submit(|monitor| async move { hmp::execute(&monitor, &line).await }).wait().ok()
}

fn plain(monitor: &Handle<Monitor>) {
    let mut output = io::stdout();
    let mut lines = io::stdin().lock().lines();
    loop {
        // If the output is gone, nobody sees the prompt, but the commands still run.
        let _ = write!(output, "{}", qmp::PROMPT).and_then(|()| output.flush());
        let Some(Ok(line)) = lines.next() else { return };
        let Some(said) = run(monitor, line) else { return };
        let _ = write!(output, "{said}");
    }
}

/// Completes the names of commands.
#[derive(Helper, Highlighter, Hinter, Validator)]
struct Names;

impl Completer for Names {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = line.get(..at).unwrap_or(line);
        let pair = |name: &str| Pair { display: name.to_owned(), replacement: format!("{name} ") };
        Ok((0, hmp::names().filter(|name| name.starts_with(typed)).map(pair).collect()))
    }
}

/// Returns the settings for editing lines. Completions are listed, as in a shell: a listing is complete once
/// it is shown, so that events can be printed behind it.
pub(super) fn editing() -> Config {
    Config::builder().completion_type(CompletionType::List).build()
}

fn edited(monitor: &Handle<Monitor>) {
    let mut editor = match Editor::<Names, DefaultHistory>::with_config(editing()) {
        Ok(editor) => editor,
        // The terminal does not support line editing.
        Err(_) => return plain(monitor),
    };
    editor.set_helper(Some(Names));
    loop {
        match editor.readline(qmp::PROMPT) {
            Ok(line) => {
                // Fails for lines that are not to be remembered.
                let _ = editor.add_history_entry(&line);
                let Some(said) = run(monitor, line) else { return };
                print!("{said}");
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => return,
            Err(e) => {
                tracing::warn!("the monitor on standard input ends: {e}");
                return;
            }
        }
    }
}
