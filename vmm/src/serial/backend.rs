//! The back ends of serial ports: sources of their input and destinations of their output.

use std::cell::Cell;
use std::fs::File;
use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use executor::sync::{OneSender, oneshot};
use executor::{JoinHandle, spawn, timeout, unblock};

use super::terminal::Terminal;
use super::{stdio, unix};
use crate::notice::{Notices, Waiter};
use crate::output;

/// The maximum number of bytes moved at once.
pub(super) const CHUNK: usize = 4096;

/// The back end of a serial port. Parsed from `stdio`, `null`, `file:PATH` and `unix:PATH`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Backend {
    /// This process's standard input and output. A terminal is put into raw mode; Ctrl-A x asks to quit,
    /// Ctrl-A Ctrl-A is one Ctrl-A; the end of input is ignored.
    Stdio,
    /// Nothing: output is discarded.
    Null,
    /// A file, which is emptied first and must not be an image in use. It provides no input.
    File(PathBuf),
    /// A listening socket for one client at a time. While there is no client, the last 64 KiB of output
    /// are kept.
    Unix(PathBuf),
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not a serial port: give stdio, null, file:PATH or unix:PATH");
        match text.split_once(':') {
            None if text == "stdio" => Ok(Backend::Stdio),
            None if text == "null" => Ok(Backend::Null),
            Some(("file", path)) if !path.is_empty() => {
                let path = path.replace(",,", "\0");
                if path.contains(',') {
                    return Err(format!(
                        "'{text}': a file has no options; a comma in its path is written ',,'"
                    ));
                }
                Ok(Backend::File(path.replace('\0', ",").into()))
            }
            Some(("unix", _)) => match text.parse() {
                Ok(qmp::Address::Unix(path)) => Ok(Backend::Unix(path)),
                Ok(qmp::Address::Tcp(_)) => Err(wrong()),
                Err(e) => Err(e.to_string()),
            },
            _ => Err(wrong()),
        }
    }
}

impl Backend {
    /// Opens the back end and starts its tasks on the current executor.
    pub(crate) fn start(&self, port: Arc<dyn Terminal>, notices: Arc<Notices>) -> Result<Running, String> {
        if let Backend::Unix(path) = self {
            return listen(path, port);
        }
        let (mut running, output, room) = ends(port)?;
        match self {
            Backend::Null | Backend::Unix(_) => {}
            Backend::File(path) => {
                let file = output::create(path).map_err(|e| explain(&path.display().to_string(), e))?;
                running.run(output.write_to(file));
            }
            Backend::Stdio => {
                let (input, to) = stdio::open().map_err(|e| explain("standard input or output", e))?;
                running._cleanup = stdio::raw_mode().map(|raw| Box::new(raw) as Box<dyn std::any::Any>);
                let reader = stdio::read(input, output.port.clone(), room, notices);
                running.run(async move {
                    let writer = output.write_to(to);
                    first(writer, async {
                        reader.await;
                        std::future::pending().await
                    })
                    .await
                });
            }
        }
        Ok(running)
    }
}

/// Listens on a socket at `path`, and starts to connect its clients to `terminal` on the current executor,
/// one at a time.
pub fn listen(path: &Path, terminal: Arc<dyn Terminal>) -> Result<Running, String> {
    let (mut running, output, room) = ends(terminal)?;
    let listener = unix::Listener::bind(path).map_err(|e| e.to_string())?;
    running.run(listener.serve(output, room));
    Ok(running)
}

/// Returns the handle of a back end, its output, and a waiter for room for input. No task runs yet.
fn ends(port: Arc<dyn Terminal>) -> Result<(Running, Output, Waiter), String> {
    let waiter = |event| Waiter::new(event).map_err(|e| explain("eventfd", e));
    let (waiter, room) = (waiter(port.output_event())?, waiter(port.room_event())?);
    let finishing = Rc::new(Cell::new(false));
    let running = Running { port: port.clone(), finishing: finishing.clone(), work: None, _cleanup: None };
    Ok((running, Output { port, waiter, finishing }, room))
}

fn explain(what: &str, e: io::Error) -> String {
    format!("{what}: {e}")
}

/// The task of one back end. Dropping it ends the task and restores the terminal.
pub struct Running {
    port: Arc<dyn Terminal>,
    finishing: Rc<Cell<bool>>,
    work: Option<(JoinHandle<()>, OneSender<()>)>,
    _cleanup: Option<Box<dyn std::any::Any>>,
}

impl Running {
    fn run(&mut self, work: impl Future<Output = ()> + 'static) {
        let (alive, dropped) = oneshot();
        let task = spawn(first(work, async {
            dropped.await;
        }));
        self.work = Some((task, alive));
    }

    /// Waits until the remaining output has been written, for at most a second.
    pub(crate) async fn finish(mut self) {
        self.finishing.set(true);
        // Fails only when the counter is full, and then it is readable already.
        let _ = self.port.output_event().write(1);
        if let Some((task, _alive)) = self.work.take() {
            timeout(Duration::from_secs(1), task).await;
        }
    }
}

/// A port's output, as its back end reads it.
pub(super) struct Output {
    pub(super) port: Arc<dyn Terminal>,
    waiter: Waiter,
    finishing: Rc<Cell<bool>>,
}

impl Output {
    /// Waits for the next bytes. Returns `None` at the end.
    pub(super) async fn next(&self) -> Option<Vec<u8>> {
        loop {
            let bytes = self.port.take_output(CHUNK);
            if !bytes.is_empty() {
                return Some(bytes);
            }
            if self.finishing.get() {
                return None;
            }
            self.waiter.wait().await;
        }
    }

    pub(super) fn finishing(&self) -> bool {
        self.finishing.get()
    }

    /// Waits until [`Output::finishing`] may have changed. Must not be called while [`Output::next`]
    /// waits.
    pub(super) async fn changed(&self) {
        self.waiter.wait().await;
    }

    /// Writes all output to a file, on a worker since any file may block.
    async fn write_to(self, file: File) {
        let file = Arc::new(file);
        while let Some(bytes) = self.next().await {
            let file = file.clone();
            if let Err(e) = unblock(move || (&*file).write_all(&bytes)).await {
                // A failing console must not stop the guest: these bytes are dropped.
                executor::limited!(warn, "serial output: {e}");
            }
        }
    }
}

/// Runs two futures until one ends, and drops the other.
pub(super) async fn first(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    std::future::poll_fn(|cx| match a.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(()),
        Poll::Pending => b.as_mut().poll(cx),
    })
    .await
}
