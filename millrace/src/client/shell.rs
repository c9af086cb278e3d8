//! The shell of `millrace qmp`: runs commands given by name and `key=value`, completes them from the
//! server's schema, and prints events as they come.

use std::io::{self, BufRead, IsTerminal, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use qmp::{Client, ClientError, EventMessage};
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{Context, Editor, ExternalPrinter, Helper, Highlighter, Hinter, Validator};

use super::Schema;
use crate::Failure;
use crate::console::editing;

const PROMPT: &str = "(QMP) ";
/// Time limit of one wait for an event; the thread that prints events then waits again.
const LOOK: Duration = Duration::from_secs(3600);

/// Runs until the input or the server ends. `events` is a second connection, which receives only events.
pub(super) fn run(mut client: Client, events: Client, schema: Schema) -> Result<(), Failure> {
    let schema = Rc::new(schema);
    if !io::stdin().is_terminal() {
        print_events(events, |text| print!("{text}"));
        for line in io::stdin().lock().lines() {
            let line = line.map_err(|e| format!("standard input: {e}"))?;
            serve(&mut client, &schema, &line)?;
        }
        return Ok(());
    }
    let unusable = |e: ReadlineError| format!("the terminal: {e}");
    let mut editor = Editor::<Words, DefaultHistory>::with_config(editing()).map_err(unusable)?;
    editor.set_helper(Some(Words { schema: schema.clone() }));
    let mut printer = editor.create_external_printer().map_err(unusable)?;
    print_events(events, move |text| {
        // Fails only if the terminal is gone.
        let _ = printer.print(text);
    });
    println!("Type NAME KEY=VALUE... or one JSON object. Tab completes, 'help [COMMAND]' explains.");
    loop {
        match editor.readline(PROMPT) {
            Ok(line) => {
                let _ = editor.add_history_entry(&line);
                serve(&mut client, &schema, &line)?;
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => return Ok(()),
            Err(e) => return Err(unusable(e)),
        }
    }
}

/// Prints events on a thread of its own, until the connection ends.
fn print_events(mut events: Client, mut print: impl FnMut(String) + Send + 'static) {
    std::thread::spawn(move || {
        loop {
            match events.next_event(Instant::now() + LOOK) {
                Ok(event) => print(event_text(&event)),
                Err(ClientError::Timeout(_)) => {}
                Err(_) => return,
            }
        }
    });
}

fn event_text(event: &EventMessage) -> String {
    let data = if event.data.is_null() { String::new() } else { format!(" {}", event.data) };
    format!("{}.{:06} {}{data}\n", event.timestamp.seconds, event.timestamp.microseconds, event.event)
}

/// Runs one line. An error of the command is printed; an error of the connection ends the shell.
fn serve(client: &mut Client, schema: &Schema, line: &str) -> Result<(), Failure> {
    let line = line.trim();
    let mut words = line.split_whitespace().map(str::to_owned);
    let Some(name) = words.next() else { return Ok(()) };
    let pairs: Vec<_> = words.collect();
    let (name, arguments) = if name == "help" {
        print!("{}", help(schema, pairs.first().map(String::as_str)));
        return Ok(());
    } else if line.starts_with('{') {
        match serde_json::from_str::<serde_json::Value>(line) {
            Ok(message) => {
                let name = message["execute"].as_str().unwrap_or_default().to_owned();
                (name, Ok(message.get("arguments").cloned().unwrap_or_default()))
            }
            Err(e) => (String::new(), Err(format!("not JSON: {e}"))),
        }
    } else {
        let arguments = schema.arguments(&name, &pairs);
        (name, arguments)
    };
    let answer = arguments.and_then(|arguments| match client.execute_json(&name, arguments) {
        Ok(answer) => Ok(Ok(answer)),
        Err(e) if e.command_error().is_some() => Err(super::failure(e)),
        Err(e) => Ok(Err(e)),
    });
    match answer {
        Ok(Ok(answer)) => println!("{answer:#}"),
        Ok(Err(e)) => return Err(super::failure(e)),
        Err(text) => println!("{text}"),
    }
    // Fails only if nobody reads the output.
    let _ = io::stdout().flush();
    Ok(())
}

fn help(schema: &Schema, command: Option<&str>) -> String {
    let doc = |name: &str| schema.doc(name).map_or(String::new(), |doc| format!(" -- {doc}"));
    let Some(name) = command else {
        return schema.commands().iter().map(|name| format!("{name}{}\n", doc(name))).collect();
    };
    let mut text = format!("{name}{}\n", doc(name));
    for (member, of, optional) in schema.members(name) {
        let values = schema.values(of);
        let of = if values.is_empty() { of.to_owned() } else { values.join("|") };
        text += &format!("    {member}={of}{}\n", if optional { " (optional)" } else { "" });
    }
    text
}

/// Completes the names of commands and arguments, and values.
#[derive(Helper, Highlighter, Hinter, Validator)]
struct Words {
    schema: Rc<Schema>,
}

impl Words {
    /// Returns the offset of the last word of `typed`, and the words that it can be completed to.
    fn candidates(&self, typed: &str) -> (usize, Vec<String>) {
        let start = typed.rfind(' ').map_or(0, |at| at + 1);
        let word = &typed[start..];
        let mut all = Vec::new();
        match typed[..start].split_whitespace().next() {
            None => all.extend(self.schema.commands().iter().map(|name| format!("{name} "))),
            Some("help") => all.extend(self.schema.commands().iter().map(|&name| name.to_owned())),
            Some(command) => {
                for (name, of, _) in self.schema.members(command) {
                    if word.contains('=') {
                        all.extend(self.schema.values(of).iter().map(|value| format!("{name}={value} ")));
                    } else {
                        all.push(format!("{name}="));
                    }
                }
            }
        }
        all.retain(|candidate| candidate.starts_with(word));
        (start, all)
    }
}

impl Completer for Words {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, candidates) = self.candidates(line.get(..at).unwrap_or(line));
        let pair = |text: String| Pair { display: text.trim_end().to_owned(), replacement: text };
        Ok((start, candidates.into_iter().map(pair).collect()))
    }
}
