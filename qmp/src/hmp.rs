//! HMP, the text monitor: a line is parsed, runs as the typed command that QMP has, and its answer is
//! printed as QEMU prints it (`monitor/hmp.c`, `block/monitor/block-hmp-cmds.c`). The entry of a command in
//! [`crate::command`] says which of the functions here read its line and print its answer.

use std::future::Future;
use std::pin::Pin;

use crate::command::{
    BlockJobCancel, BlockStream, Change, DriveBackup, DriveMirror, Eject, Request, Screendump, SendKey,
    text_forms, topics,
};
use crate::error::Error;
use crate::monitor::Monitor;
use crate::types::{
    BlockInfo, BlockJobInfo, BlockStreamInfo, DetectZeroes, ImageFormat, JobType, KeyValue, MirrorSyncMode,
    NewImageMode, QKeyCode, RunState, StatusInfo, VersionInfo, VncInfo,
};

/// The output of a line, or the reason why it does not run.
pub(crate) type Printed = std::result::Result<String, Failure>;

type Run = fn(Monitor, Arguments) -> Pin<Box<dyn Future<Output = Printed>>>;

/// A command's form in the text monitor.
pub(crate) struct TextForm {
    /// Its name and its arguments.
    pub usage: &'static str,
    /// A second name, or nothing.
    pub alias: &'static str,
    /// Its meaning in one line.
    pub help: &'static str,
    pub run: Run,
}

/// A topic of `info`.
pub(crate) struct Topic {
    pub name: &'static str,
    pub run: Run,
}

/// Returns usage and meaning of every command, sorted by name.
fn usages() -> Vec<(&'static str, String)> {
    let mut topics: Vec<_> = topics().map(|topic| topic.name).collect();
    topics.sort_unstable();
    let mut all: Vec<_> = text_forms().map(|form| (form.usage, form.help.to_owned())).collect();
    all.push(("help [command]", "show the help".to_owned()));
    all.push(("info subcommand", format!("show the state: {}", topics.join(", "))));
    all.sort_unstable();
    all
}

fn name(usage: &str) -> &str {
    usage.split(' ').next().unwrap_or(usage)
}

/// The names of all commands, for completion.
pub fn names() -> impl Iterator<Item = &'static str> {
    usages().into_iter().map(|(usage, _)| name(usage))
}

/// Runs one line of the text monitor and returns what it prints: lines that end with `\n`.
pub async fn execute(monitor: &Monitor, line: &str) -> String {
    match run(monitor, line).await {
        Ok(text) => text,
        Err(Failure::Usage(text)) => text,
        Err(Failure::Command(e)) => format!("Error: {e}\n"),
    }
}

/// The prompt for a password: QEMU's, which scripts wait for.
pub const PASSWORD_PROMPT: &str = "Password: ";

/// Returns true if a line asks for a password at a prompt: `change vnc password` without one. A monitor that
/// can prompt reads it by itself, and passes it to [`set_password`].
pub fn asks_password(line: &str) -> bool {
    let words = words(line).unwrap_or_default();
    matches!(&words[..], [change, vnc, target] if change == "change" && vnc == "vnc" && is_password(target))
}

fn is_password(target: &str) -> bool {
    matches!(target, "password" | "passwd")
}

/// Sets the password of VNC to one that was read at a prompt, and returns what that prints.
pub async fn set_password(monitor: &Monitor, password: &str) -> String {
    let arg = Some(password.to_owned());
    let change = Change { device: "vnc".into(), target: "password".into(), arg, format: None, notify: None };
    match monitor.request(change).await {
        Ok(_) => String::new(),
        Err(e) => format!("Error: {e}\n"),
    }
}

pub(crate) enum Failure {
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

async fn run(monitor: &Monitor, line: &str) -> Printed {
    let words = words(line).map_err(|e| Failure::Usage(format!("{e}\n")))?;
    let mut words = words.into_iter();
    let Some(first) = words.next() else { return Ok(String::new()) };
    let mut arguments = Arguments { command: first.clone(), flags: String::new(), words: words.collect() };
    let unknown = |what: &str| Err(Failure::Usage(format!("unknown command: '{what}'\n")));
    match first.as_str() {
        "help" | "?" => {
            let command = arguments.optional();
            arguments.end()?;
            Ok(help(command.as_deref()))
        }
        "info" => {
            let Some(topic) = arguments.optional() else { return Ok(help(Some("info"))) };
            arguments.end()?;
            match topics().find(|other| other.name == topic) {
                Some(topic) => (topic.run)(monitor.clone(), arguments).await,
                None => unknown(&format!("info {topic}")),
            }
        }
        word => {
            // Most forms have no alias, and a word may be empty.
            let is_meant =
                |form: &&TextForm| name(form.usage) == word || (!form.alias.is_empty() && form.alias == word);
            match text_forms().find(is_meant) {
                Some(form) => (form.run)(monitor.clone(), arguments).await,
                None => unknown(word),
            }
        }
    }
}

/// Runs a command that `read` makes of the line, and has `print` make the text of its answer.
pub(crate) async fn perform<R: Request>(
    monitor: Monitor,
    mut arguments: Arguments,
    read: fn(&mut Arguments) -> std::result::Result<R, Failure>,
    print: fn(R::Answer) -> String,
) -> Printed {
    let request = read(&mut arguments)?;
    arguments.end()?;
    Ok(print(monitor.request(request).await?))
}

pub(crate) fn nothing<T>(_: T) -> String {
    String::new()
}

pub(crate) fn block_stream(arguments: &mut Arguments) -> std::result::Result<BlockStream, Failure> {
    arguments.take_flags("as")?;
    let device = arguments.required("device")?;
    let (all, stop) = (arguments.has('a').then_some(true), arguments.has('s').then_some(true));
    Ok(BlockStream { device, all, stop, offset: None })
}

/// Reads the name of a job, of which `request` makes the command.
pub(crate) fn job<R>(
    arguments: &mut Arguments,
    request: impl FnOnce(String) -> R,
) -> std::result::Result<R, Failure> {
    arguments.required("device").map(request)
}

pub(crate) fn block_job_cancel(arguments: &mut Arguments) -> std::result::Result<BlockJobCancel, Failure> {
    arguments.take_flags("f")?;
    let device = arguments.required("device")?;
    Ok(BlockJobCancel { device, force: arguments.has('f').then_some(true) })
}

/// The words of a command that copies a disk to an image.
struct Copy {
    device: String,
    target: String,
    format: Option<String>,
    sync: MirrorSyncMode,
    mode: NewImageMode,
}

fn copy(arguments: &mut Arguments) -> std::result::Result<Copy, Failure> {
    arguments.take_flags("nf")?;
    let (device, target) = (arguments.required("device")?, arguments.required("target")?);
    let format = arguments.optional();
    let sync = if arguments.has('f') { MirrorSyncMode::Full } else { MirrorSyncMode::Top };
    let mode = if arguments.has('n') { NewImageMode::Existing } else { NewImageMode::AbsolutePaths };
    Ok(Copy { device, target, format, sync, mode })
}

pub(crate) fn drive_mirror(arguments: &mut Arguments) -> std::result::Result<DriveMirror, Failure> {
    let Copy { device, target, format, sync, mode } = copy(arguments)?;
    Ok(DriveMirror {
        job_id: None,
        device,
        target,
        format,
        node_name: None,
        sync,
        mode: Some(mode),
        speed: None,
        on_source_error: None,
        on_target_error: None,
        copy_mode: None,
        adaptive: None,
        window: None,
        deadline: None,
        max_latency: None,
        granularity: None,
        buf_size: None,
        auto_finalize: None,
        auto_dismiss: None,
        witness: None,
    })
}

pub(crate) fn drive_backup(arguments: &mut Arguments) -> std::result::Result<DriveBackup, Failure> {
    let Copy { device, target, format, sync, mode } = copy(arguments)?;
    Ok(DriveBackup {
        job_id: None,
        device,
        target,
        format,
        mode: Some(mode),
        sync,
        speed: None,
        on_source_error: None,
        on_target_error: None,
        auto_finalize: None,
        auto_dismiss: None,
        filter_node_name: None,
    })
}

pub(crate) fn change(arguments: &mut Arguments) -> std::result::Result<Change, Failure> {
    arguments.take_flags("n")?;
    let (device, target) = (arguments.required("device")?, arguments.required("target")?);
    let third = arguments.optional();
    if device == "vnc" && is_password(&target) && third.is_none() {
        // QEMU's words, where nobody is at a prompt: in `human-monitor-command`.
        return Err(Failure::Usage("terminal does not support password prompting\n".to_owned()));
    }
    // The third word is the format for a disk; for `vnc` it is the password, which only `arg` can be.
    let (arg, format) = if device == "vnc" { (third, None) } else { (None, third) };
    let notify = arguments.has('n').then_some(false);
    Ok(Change { device, target, arg, format, notify })
}

pub(crate) fn eject(arguments: &mut Arguments) -> std::result::Result<Eject, Failure> {
    arguments.take_flags("f")?;
    let device = Some(arguments.required("device")?);
    Ok(Eject { device, id: None, force: arguments.has('f').then_some(true) })
}

pub(crate) fn screendump(arguments: &mut Arguments) -> std::result::Result<Screendump, Failure> {
    let filename = arguments.required("filename")?;
    let format = match arguments.optional().as_deref() {
        None => None,
        Some("ppm") => Some(ImageFormat::Ppm),
        Some("png") => Some(ImageFormat::Png),
        Some(other) => return Err(arguments.usage(&format!("'{other}' is not a format: give ppm or png"))),
    };
    Ok(Screendump { filename, device: None, head: None, format })
}

/// Reads keys as QEMU does: names or scancodes (`0x1e`) with `-` between them; `<` is the key `less`.
pub(crate) fn send_key(arguments: &mut Arguments) -> std::result::Result<SendKey, Failure> {
    let text = arguments.required("keys")?;
    let key = |name: &str| -> Option<KeyValue> {
        if let Some(digits) = name.strip_prefix("0x") {
            return i64::from_str_radix(digits, 16).ok().map(KeyValue::Number);
        }
        let name = if name == "<" { "less" } else { name };
        QKeyCode::ALL.iter().find(|key| key.as_str() == name).map(|key| KeyValue::Qcode(*key))
    };
    let keys = text
        .split('-')
        .map(|name| key(name).ok_or_else(|| arguments.usage(&format!("unknown key '{name}'"))));
    let keys = keys.collect::<std::result::Result<_, _>>()?;
    let hold_time = match arguments.optional() {
        None => None,
        Some(text) => {
            let number = text.parse().map_err(|_| arguments.usage(&format!("'{text}' is not a number")))?;
            Some(number)
        }
    };
    Ok(SendKey { keys, hold_time })
}

pub(crate) fn vnc(info: VncInfo) -> String {
    let (Some(host), Some(service), Some(family)) = (info.host, info.service, info.family) else {
        return "None\n".to_owned();
    };
    let mut text = format!("Server: {host}:{service} ({family})\n");
    text += &format!("    Auth: {}\n", info.auth.as_deref().unwrap_or("none"));
    for client in info.clients.into_iter().flatten() {
        text += &format!("Client: {}:{} ({})\n", client.host, client.service, client.family);
    }
    text
}

pub(crate) fn version(version: VersionInfo) -> String {
    let qemu = version.qemu;
    format!("{}.{}.{} ({})\n", qemu.major, qemu.minor, qemu.micro, version.package)
}

pub(crate) fn streams(streams: Vec<BlockStreamInfo>) -> String {
    if streams.is_empty() {
        return "No active stream\n".to_owned();
    }
    let text = |stream: &BlockStreamInfo| {
        format!("Streaming device {}: Completed {} of {} bytes\n", stream.device, stream.offset, stream.len)
    };
    streams.iter().map(text).collect()
}

pub(crate) fn block_jobs(jobs: Vec<BlockJobInfo>) -> String {
    if jobs.is_empty() {
        return "No active jobs\n".to_owned();
    }
    let text = |job: &BlockJobInfo| {
        let what = match job.kind {
            JobType::Stream => format!("Streaming device {}", job.device),
            other => format!("Type {other}, device {}", job.device),
        };
        format!("{what}: Completed {} of {} bytes, speed limit {} bytes/s\n", job.offset, job.len, job.speed)
    };
    jobs.iter().map(text).collect()
}

pub(crate) fn status(info: StatusInfo) -> String {
    let state = if info.running { "running" } else { "paused" };
    let why = match info.status {
        RunState::Running | RunState::Paused => String::new(),
        other => format!(" ({other})"),
    };
    format!("VM status: {state}{why}\n")
}

pub(crate) fn blocks(drives: Vec<BlockInfo>) -> String {
    drives.iter().map(block_text).collect::<Vec<_>>().join("\n")
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
    let shown = |usage: &str| command.is_none_or(|wanted| name(usage) == wanted);
    let lines = usages().into_iter().filter(|(usage, _)| shown(usage));
    lines.map(|(usage, doc)| format!("{usage} -- {doc}\n")).collect()
}

/// A command's name, its options and its other words.
pub(crate) struct Arguments {
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
