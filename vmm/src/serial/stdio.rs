//! Standard input and output as a serial port's back end.
//!
//! The descriptors are shared with the process that started us, so they are never made non-blocking: input
//! is read only when `poll` says that there is some, and output is written on a worker.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex};

use executor::{AsyncFd, unblock};

use super::backend::CHUNK;
use super::terminal::Terminal;
use crate::notice::{Event, Notices, Waiter};
use executor::lock;

/// The terminal's settings before raw mode.
static SAVED: Mutex<Option<libc::termios>> = Mutex::new(None);

/// Takes the terminal out of raw mode again, for exits that run no destructors. Otherwise the machine's
/// end does it.
pub fn restore_terminal() {
    if let Some(saved) = lock(&SAVED).take()
        && is_foreground()
    {
        // SAFETY: the settings came from tcgetattr; a descriptor that is not a terminal any more is
        // refused.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &saved) };
    }
}

/// Returns false if standard input is the terminal of this session but another process group is in its
/// foreground: changing its settings would stop this whole process (SIGTTOU) and disturb that group.
fn is_foreground() -> bool {
    // SAFETY: a system call on a number, without memory; it fails if that is not this session's terminal.
    let group = unsafe { libc::tcgetpgrp(libc::STDIN_FILENO) };
    // SAFETY: a system call without arguments that cannot fail.
    group < 0 || group == unsafe { libc::getpgrp() }
}

/// Saves the terminal's settings for [`restore_terminal`].
pub fn save_terminal() {
    *lock(&SAVED) = settings();
}

/// Returns the settings of the terminal on standard input, or `None` if that is not a terminal.
fn settings() -> Option<libc::termios> {
    if !io::stdin().is_terminal() {
        return None;
    }
    // SAFETY: termios holds numbers only, and zero is one of their values.
    let mut settings: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a whole termios.
    let got = unsafe { libc::tcgetattr(libc::STDIN_FILENO, &mut settings) };
    (got == 0).then_some(settings)
}

/// Keeps the terminal in raw mode while it lives.
pub(super) struct RawMode;

impl Drop for RawMode {
    fn drop(&mut self) {
        restore_terminal();
    }
}

/// Puts the terminal on standard input into raw mode. Output processing stays, since our own messages go
/// there too. Returns `None` if it is not a terminal, or not in our hands (see [`is_foreground`]).
pub(super) fn raw_mode() -> Option<RawMode> {
    let mut settings = settings().filter(|_| is_foreground())?;
    *lock(&SAVED) = Some(settings);
    let output = settings.c_oflag;
    // SAFETY: the pointers are to a whole termios.
    unsafe {
        libc::cfmakeraw(&mut settings);
        settings.c_oflag = output;
        libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &settings);
    }
    Some(RawMode)
}

/// Duplicates the descriptors of standard input and output.
pub(super) fn open() -> io::Result<(File, File)> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    Ok((input.into(), output.into()))
}

/// Interprets the escape key Ctrl-A in typed bytes.
#[derive(Default)]
pub(super) struct Escape {
    pending: bool,
}

impl Escape {
    const CTRL_A: u8 = 1;

    /// Returns the bytes for the guest, and true if Ctrl-A x was among them (the bytes behind it are
    /// lost).
    pub(super) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut bytes = Vec::with_capacity(typed.len());
        for byte in typed {
            match (std::mem::take(&mut self.pending), *byte) {
                (false, Self::CTRL_A) => self.pending = true,
                (false, byte) => bytes.push(byte),
                (true, b'x' | b'X') => return (bytes, true),
                (true, Self::CTRL_A) => bytes.push(Self::CTRL_A),
                (true, byte) => bytes.extend([Self::CTRL_A, byte]),
            }
        }
        (bytes, false)
    }
}

/// Offers `bytes` to the guest until it has taken them all.
pub(super) async fn offer(port: &dyn Terminal, room: &Waiter, mut bytes: &[u8]) {
    loop {
        bytes = &bytes[port.offer_input(bytes)..];
        if bytes.is_empty() {
            return;
        }
        room.wait().await;
    }
}

/// Returns true if reading would not block.
fn has_input(file: &File) -> bool {
    let mut poll = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, as the count says.
    unsafe { libc::poll(&mut poll, 1, 0) > 0 }
}

async fn next_input(file: &AsyncFd<Arc<File>>) -> io::Result<Vec<u8>> {
    while !has_input(file.get()) {
        file.clear_readable();
        // Input that came before the flag was cleared causes no further edge.
        if !has_input(file.get()) {
            file.readable().await;
        }
    }
    read_some(file.get())
}

fn read_some(mut file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; CHUNK];
    let count = file.read(&mut bytes)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// Carries standard input to the guest until it ends.
pub(super) async fn read(file: File, port: Arc<dyn Terminal>, room: Waiter, notices: Arc<Notices>) {
    let file = Arc::new(file);
    // epoll refuses regular files, whose reads do not wait for input.
    let awaited = AsyncFd::new(file.clone()).ok();
    let mut escape = Escape::default();
    loop {
        let bytes = match &awaited {
            Some(file) => next_input(file).await,
            None => {
                let file = file.clone();
                unblock(move || read_some(&file)).await
            }
        };
        match bytes {
            Ok(bytes) if bytes.is_empty() => return,
            Ok(bytes) => {
                let (bytes, quit) = escape.filter(&bytes);
                if quit {
                    notices.push(Event::Quit);
                }
                offer(&*port, &room, &bytes).await;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                tracing::debug!("standard input: {e}");
                return;
            }
        }
    }
}
