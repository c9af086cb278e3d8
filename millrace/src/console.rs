//! `--monitor stdio`: the text monitor (HMP) on standard input and output, with line editing and history on
//! a terminal.
//!
//! A thread of its own reads the lines, which may wait for the user forever; the commands run on the main
//! loop.

use std::borrow::Cow;
use std::io::{self, BufRead, IsTerminal, Write};
use std::rc::Rc;

use executor::Handle;
use qmp::{Monitor, hmp};
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::history::DefaultHistory;
use rustyline::{
    ColorMode, Completer, CompletionType, Config, Context, Editor, Helper, Highlighter, Hinter, Validator,
};

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

/// Sets the password that was read at a prompt. Returns `None` if the main loop has ended.
fn set_password(monitor: &Handle<Monitor>, password: String) -> Option<String> {
    monitor.submit(|monitor| async move { hmp::set_password(&monitor, &password).await }).wait().ok()
}

fn plain(monitor: &Handle<Monitor>) {
    let mut lines = io::stdin().lock().lines();
    let mut read = |prompt: &str| {
        // If the output is gone, nobody sees the prompt, but the commands still run.
        let _ = write!(io::stdout(), "{prompt}").and_then(|()| io::stdout().flush());
        lines.next()
    };
    loop {
        let Some(Ok(line)) = read(qmp::PROMPT) else { return };
        let said = if hmp::asks_password(&line) {
            let Some(Ok(password)) = read(hmp::PASSWORD_PROMPT) else { return };
            set_password(monitor, password)
        } else {
            run(monitor, line)
        };
        let Some(said) = said else { return };
        let _ = write!(io::stdout(), "{said}");
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

/// Shows a star for each character.
#[derive(Completer, Helper, Hinter, Validator)]
struct Masked;

impl Highlighter for Masked {
    fn highlight<'l>(&self, line: &'l str, _: usize) -> Cow<'l, str> {
        Cow::Owned("*".repeat(line.chars().count()))
    }

    fn highlight_char(&self, _: &str, _: usize, kind: CmdKind) -> bool {
        kind != CmdKind::MoveCursor
    }
}

/// Reads a password, which is neither shown nor remembered. `None` if the user gave up.
fn password() -> Option<String> {
    let config = Config::builder().color_mode(ColorMode::Forced).auto_add_history(false).build();
    let mut editor = Editor::<Masked, DefaultHistory>::with_config(config).ok()?;
    editor.set_helper(Some(Masked));
    editor.readline(hmp::PASSWORD_PROMPT).ok()
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
                let said = match hmp::asks_password(&line).then(password) {
                    None => run(monitor, line),
                    Some(Some(password)) => set_password(monitor, password),
                    Some(None) => continue,
                };
                let Some(said) = said else { return };
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
