//! The log: lines on standard error, written by a thread of their own.
//!
//! Standard error may be a pipe that nobody reads, or a file on a slow disk. So callers, such as a vCPU, a
//! disk or the main loop, only add a line to a queue and never wait. Lines that do not fit are dropped, and
//! the log shows the number of missing lines where they would be.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use executor::lock;

/// Maximum number of bytes that wait to be written. The thread may hold as many more that it is writing.
const MOST: usize = 1 << 20;
/// Additional bytes that only the program's own messages may use, such as the reason for its end.
const RESERVE: usize = 64 << 10;
/// Maximum length of one line in bytes; the rest of a longer one is cut off.
const LONGEST: usize = 4 << 10;

struct Queue {
    /// Whole lines that wait to be written.
    bytes: Vec<u8>,
    /// Number of lines that had no room. They belong behind `bytes`.
    dropped: u64,
    /// True if the thread runs.
    started: bool,
    /// True while the thread writes the bytes that it took.
    writing: bool,
}

static QUEUE: Mutex<Queue> =
    Mutex::new(Queue { bytes: Vec::new(), dropped: 0, started: false, writing: false });
/// Notified when the queue has something to write, and when the thread has written it.
static CHANGED: Condvar = Condvar::new();

impl Queue {
    /// Adds a line, or counts it as dropped if more than `most` bytes would wait.
    fn push(&mut self, line: &[u8], most: usize) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let kept = &line[..line.len().min(LONGEST)];
        if self.bytes.len() + kept.len() >= most {
            self.dropped += 1;
            return;
        }
        self.bytes.extend_from_slice(kept);
        if kept.len() < line.len() {
            self.bytes.extend_from_slice(b"...");
        }
        self.bytes.push(b'\n');
    }

    /// Takes everything, with a line that reports the number of missing lines.
    fn take(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        match std::mem::take(&mut self.dropped) {
            0 => {}
            1 => bytes.extend_from_slice(b"millrace: 1 line of the log is missing here\n"),
            many => {
                let line = format!("millrace: {many} lines of the log are missing here\n");
                bytes.extend_from_slice(line.as_bytes());
            }
        }
        bytes
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.dropped == 0
    }
}

fn wait(queue: MutexGuard<'static, Queue>, time: Duration) -> MutexGuard<'static, Queue> {
    let woken = CHANGED.wait_timeout(queue, time);
    woken.unwrap_or_else(std::sync::PoisonError::into_inner).0
}

/// Time that a thread that panics waits for its message to be written.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Starts the log: messages of libraries (warnings, or what `MILLRACE_LOG` selects, such as `debug` or
/// `warn,block=trace`), panics, and [`say`]. If its thread cannot be started, callers write their lines
/// themselves.
pub(super) fn start() {
    if std::thread::Builder::new().name("log".into()).spawn(write_for_ever).is_ok() {
        lock(&QUEUE).started = true;
    }
    let given = std::env::var("MILLRACE_LOG").ok().and_then(|text| text.parse().ok());
    let targets: Targets = given.unwrap_or_else(|| Targets::new().with_default(LevelFilter::WARN));
    let lines = fmt::layer().with_writer(|| Line).without_time().with_target(false);
    tracing_subscriber::registry().with(lines).with(targets).init();
    // The standard library's own panic hook waits for standard error. It is kept if a backtrace is wanted.
    if std::env::var_os("RUST_BACKTRACE").is_none_or(|value| value == "0") {
        std::panic::set_hook(Box::new(|panic| {
            let thread = std::thread::current();
            say(&format!("thread '{}' {panic}", thread.name().unwrap_or("unnamed")));
            // A panic that cannot unwind ends the process as soon as this returns.
            finish(LAST_WORDS);
        }));
    }
}

/// Writes a line to standard error soon. Never waits once [`start`] was called.
pub(super) fn say(line: &str) {
    add(line.as_bytes(), MOST + RESERVE);
}

fn add(line: &[u8], most: usize) {
    let mut queue = lock(&QUEUE);
    if !queue.started {
        drop(queue);
        // A failure cannot be reported anywhere.
        let _ = io::stderr().write_all(&[line, b"\n"].concat());
        return;
    }
    // Once a line was dropped, further ones are dropped until the queue is written, so that there is one
    // gap.
    let most = if most == MOST && queue.dropped > 0 { 0 } else { most };
    queue.push(line, most);
    drop(queue);
    CHANGED.notify_all();
}

/// Waits until everything is written, for at most `time`: a reader that has stopped reading must not delay
/// the program's end.
pub(super) fn finish(time: Duration) {
    let deadline = Instant::now() + time;
    let mut queue = lock(&QUEUE);
    while queue.started && (queue.writing || !queue.is_empty()) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        queue = wait(queue, left);
    }
}

/// The writer of the libraries' messages. The subscriber writes each line in one piece.
struct Line;

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        add(line, MOST);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_for_ever() {
    loop {
        let mut queue = lock(&QUEUE);
        while queue.is_empty() {
            queue = CHANGED.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        let bytes = queue.take();
        queue.writing = true;
        drop(queue);
        write(&bytes);
        lock(&QUEUE).writing = false;
        CHANGED.notify_all();
    }
}

/// Writes to standard error, however long that takes. Bytes that cannot be written are lost, since there is
/// nowhere to report that.
fn write(mut bytes: &[u8]) {
    let mut stderr = io::stderr();
    while !bytes.is_empty() {
        match stderr.write(bytes) {
            Ok(0) => return,
            Ok(count) => bytes = &bytes[count..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            // Another process that shares the descriptor has made it non-blocking.
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let fd = stderr.as_fd();
                if poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], PollTimeout::NONE).is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Queue {
        Queue { bytes: Vec::new(), dropped: 0, started: true, writing: false }
    }

    #[test]
    fn what_does_not_fit_is_counted_where_it_is_missing() {
        let mut queue = queue();
        queue.push(b"first\n", 10);
        queue.push(b"second\n", 10);
        queue.push(b"third", 10);
        queue.push(b"the reason", 100);
        assert!(!queue.is_empty());
        let all = String::from_utf8(queue.take()).unwrap();
        assert_eq!(all, "first\nthe reason\nmillrace: 2 lines of the log are missing here\n");
        assert!(queue.is_empty() && queue.take().is_empty());
        queue.push(b"", 10);
        assert_eq!(queue.take(), b"\n");
    }

    #[test]
    fn memory_and_lines_are_bounded() {
        let mut queue = queue();
        queue.push(&[b'x'; 3 * LONGEST], MOST);
        assert_eq!(queue.bytes.len(), LONGEST + 4);
        assert!(queue.bytes.ends_with(b"x...\n"));
        for _ in 0..2 * MOST / LONGEST {
            queue.push(&[b'x'; 3 * LONGEST], MOST);
        }
        assert!(queue.bytes.len() <= MOST + 4);
        assert!(queue.dropped > 0);
    }
}
