//! HMP, the text monitor: a line is parsed, runs as the typed commands that QMP has, and its answer is
//! printed as QEMU prints it (`monitor/hmp.c`, `block/monitor/block-hmp-cmds.c`).

use crate::command::*;
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::types::{BlockInfo, DetectZeroes, JobType, RunState};

/// Usage and meaning of every command, in the order of `help`.
const HELP: &[(&str, &str)] = &[
    ("block_stream [-a|-s] device", "copy one cluster from the backing chain (-a: all, -s: stop)"),
    ("change [-n] device target [format]", "switch a disk's image (-n: do not notify the guest)"),
    ("cont", "resume a stopped machine"),
    ("eject [-f] device", "take a removable drive's medium out (-f: also while the guest has it locked)"),
    ("help [command]", "show the help"),
    ("info subcommand", "show the state: block, block-jobs, block-stream, status, version"),
    ("quit", "end the program"),
    ("stop", "stop the machine"),
    ("system_powerdown", "ask the guest to power off"),
    ("system_reset", "reset the machine"),
];

/// The names of all commands, for completion.
pub fn names() -> impl Iterator<Item = &'static str> {
    HELP.iter().filter_map(|(usage, _)| usage.split(' ').next())
}

/// Runs one line of the text monitor and returns what it prints: lines that end with `\n`.
pub async fn execute(monitor: &Monitor, line: &str) -> String {
    match run(monitor, line).await {
        Ok(text) => text,
        Err(Failure::Usage(text)) => text,
        Err(Failure::Command(e)) => format!("Error: {e}\n"),
    }
}

enum Failure {
    /// The line is not a valid command; the text to print.
    Usage(String),
    /// The command failed.
    Command(Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure::Command(e)
    }
}

async fn run(monitor: &Monitor, line: &str) -> std::result::Result<String, Failure> {
    let words = words(line).map_err(|e| Failure::Usage(format!("{e}\n")))?;
    let mut words = words.into_iter();
    let Some(name) = words.next() else { return Ok(String::new()) };
    let mut arguments = Arguments { command: name.clone(), flags: String::new(), words: words.collect() };
    match name.as_str() {
        "block_stream" => {
            arguments.take_flags("as")?;
            let device = arguments.required("device")?;
            arguments.end()?;
            let all = arguments.has('a').then_some(true);
            let stop = arguments.has('s').then_some(true);
            monitor.request(BlockStream { device, all, stop, offset: None }).await?;
        }
        "change" => {
            arguments.take_flags("n")?;
            let (device, target) = (arguments.required("device")?, arguments.required("target")?);
            let third = arguments.optional();
            arguments.end()?;
            // The third word is the format for a disk; for `vnc` it is the password, which only `arg` can be.
            let (arg, format) = if device == "vnc" { (third, None) } else { (None, third) };
            let notify = arguments.has('n').then_some(false);
            monitor.request(Change { device, target, arg, format, notify }).await?;
        }
        "eject" => {
            arguments.take_flags("f")?;
            let device = Some(arguments.required("device")?);
            arguments.end()?;
            let force = arguments.has('f').then_some(true);
            monitor.request(Eject { device, id: None, force }).await?;
        }
        "info" => {
            let what = arguments.optional();
            arguments.end()?;
            return info(monitor, what.as_deref()).await;
        }
        "help" | "?" => {
            let command = arguments.optional();
            arguments.end()?;
            return Ok(help(command.as_deref()));
        }
        _ => {
            let command = match name.as_str() {
                "cont" | "c" => Cont {}.into(),
                "quit" | "q" => Quit {}.into(),
                "stop" | "s" => Stop {}.into(),
                "system_powerdown" => SystemPowerdown {}.into(),
                "system_reset" => SystemReset {}.into(),
                _ => return Err(Failure::Usage(format!("unknown command: '{name}'\n"))),
            };
            arguments.end()?;
            monitor.execute(command).await?;
        }
    }
    Ok(String::new())
}

async fn info(monitor: &Monitor, what: Option<&str>) -> std::result::Result<String, Failure> {
    let text = match what {
        Some("block") => {
            let drives = monitor.request(QueryBlock {}).await?;
            drives.iter().map(block_text).collect::<Vec<_>>().join("\n")
        }
        Some("block-jobs") => block_jobs(monitor).await?,
        Some("block-stream") => block_stream(monitor).await?,
        Some("status") => status(monitor).await?,
        Some("version") => {
            let version = monitor.request(QueryVersion {}).await?;
            let qemu = version.qemu;
            format!("{}.{}.{} ({})\n", qemu.major, qemu.minor, qemu.micro, version.package)
        }
        Some(other) => return Err(Failure::Usage(format!("unknown command: 'info {other}'\n"))),
        None => help(Some("info")),
    };
    Ok(text)
}

async fn block_stream(monitor: &Monitor) -> Result<String> {
    let streams = monitor.request(QueryBlockStream {}).await?;
    if streams.is_empty() {
        return Ok("No active stream\n".to_owned());
    }
    let text = |stream: &crate::types::BlockStreamInfo| {
        format!("Streaming device {}: Completed {} of {} bytes\n", stream.device, stream.offset, stream.len)
    };
    Ok(streams.iter().map(text).collect())
}

async fn block_jobs(monitor: &Monitor) -> Result<String> {
    let jobs = monitor.request(QueryBlockJobs {}).await?;
    if jobs.is_empty() {
        return Ok("No active jobs\n".to_owned());
    }
    let text = |job: &crate::types::BlockJobInfo| {
        let what = match job.kind {
            JobType::Stream => format!("Streaming device {}", job.device),
            other => format!("Type {other}, device {}", job.device),
        };
        format!("{what}: Completed {} of {} bytes, speed limit {} bytes/s\n", job.offset, job.len, job.speed)
    };
    Ok(jobs.iter().map(text).collect())
}

async fn status(monitor: &Monitor) -> Result<String> {
    let info = monitor.request(QueryStatus {}).await?;
    let state = if info.running { "running" } else { "paused" };
    let why = match info.status {
        RunState::Running | RunState::Paused => String::new(),
        other => format!(" ({other})"),
    };
    Ok(format!("VM status: {state}{why}\n"))
}

fn block_text(drive: &BlockInfo) -> String {
    let mut text = drive.device.clone();
    match &drive.inserted {
        Some(inserted) => {
            if let Some(node) = &inserted.node_name {
                text += &format!(" ({node})");
            }
            let read_only = if inserted.ro { ", read-only" } else { "" };
            text += &format!(": {} ({}{read_only})\n", inserted.file, inserted.drv);
        }
        None => text += ": [not inserted]\n",
    }
    if let Some(qdev) = &drive.qdev {
        text += &format!("    Attached to:      {qdev}\n");
    }
    if drive.removable {
        let locked = if drive.locked { "" } else { "not " };
        let tray = if drive.tray_open == Some(true) { "open" } else { "closed" };
        text += &format!("    Removable device: {locked}locked, tray {tray}\n");
    }
    if let Some(inserted) = &drive.inserted {
        let mode = if inserted.cache.writeback { "writeback" } else { "writethrough" };
        let direct = if inserted.cache.direct { ", direct" } else { "" };
        let no_flush = if inserted.cache.no_flush { ", ignore flushes" } else { "" };
        text += &format!("    Cache mode:       {mode}{direct}{no_flush}\n");
        if let Some(backing) = &inserted.backing_file {
            let depth = inserted.backing_file_depth;
            text += &format!("    Backing file:     {backing} (chain depth: {depth})\n");
        }
        if inserted.detect_zeroes != DetectZeroes::Off {
            text += &format!("    Detect zeroes:    {}\n", inserted.detect_zeroes);
        }
    }
    text
}

fn help(command: Option<&str>) -> String {
    let shown = |usage: &str| command.is_none_or(|name| usage.split(' ').next() == Some(name));
    let lines = HELP.iter().filter(|(usage, _)| shown(usage));
    lines.map(|(usage, doc)| format!("{usage} -- {doc}\n")).collect()
}

/// A command's name, its options and its other words.
struct Arguments {
    command: String,
    flags: String,
    words: std::collections::VecDeque<String>,
}

impl Arguments {
    /// Takes the leading options. Fails if one of them is not in `known`.
    fn take_flags(&mut self, known: &str) -> std::result::Result<(), Failure> {
        while let Some(flags) = self.words.front().and_then(|word| word.strip_prefix('-')) {
            if let Some(other) = flags.chars().find(|flag| !known.contains(*flag)) {
                return Err(self.usage(&format!("unsupported option -{other}")));
            }
            self.flags.push_str(flags);
            self.words.pop_front();
        }
        Ok(())
    }

    fn has(&self, flag: char) -> bool {
        self.flags.contains(flag)
    }

    fn optional(&mut self) -> Option<String> {
        self.words.pop_front()
    }

    fn required(&mut self, name: &str) -> std::result::Result<String, Failure> {
        self.optional().ok_or_else(|| self.usage(&format!("{name} expected")))
    }

    fn end(&self) -> std::result::Result<(), Failure> {
        if self.words.is_empty() {
            return Ok(());
        }
        Err(self.usage("extraneous characters at the end of line"))
    }

    fn usage(&self, what: &str) -> Failure {
        let command = &self.command;
        Failure::Usage(format!("{command}: {what}\nTry \"help {command}\" for more information\n"))
    }
}

/// Splits a line at blanks. A word in double quotes may contain blanks, and the escapes `\n`, `\r`, `\\`,
/// `\'` and `\"`.
fn words(line: &str) -> std::result::Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut rest = line.chars().peekable();
    loop {
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        if rest.peek().is_none() {
            return Ok(words);
        }
        let mut word = String::new();
        if rest.next_if_eq(&'"').is_some() {
            loop {
                match rest.next().ok_or("unterminated string literal")? {
                    '"' => break,
                    '\\' => match rest.next().ok_or("unterminated string literal")? {
                        'n' => word.push('\n'),
                        'r' => word.push('\r'),
                        plain @ ('\\' | '\'' | '"') => word.push(plain),
                        _ => return Err("unsupported escape code"),
                    },
                    plain => word.push(plain),
                }
            }
        } else {
            while let Some(plain) = rest.next_if(|c| !c.is_whitespace()) {
                word.push(plain);
            }
        }
        words.push(word);
    }
}

#[cfg(test)]
#[path = "hmp_tests.rs"]
mod tests;
