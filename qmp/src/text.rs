//! HMP on a stream socket: lines are read, and their output is sent, with a prompt before each line.

use std::io::{self, Read, Write};
use std::rc::Rc;
use std::time::Duration;

use executor::AsyncFd;
use socket2::Socket;

use crate::address::Listener;
use crate::hmp;
use crate::monitor::Monitor;

/// The prompt for a line: QEMU's, which scripts wait for.
pub const PROMPT: &str = "(qemu) ";
/// The longest line; a longer one ends the connection.
const MAX_LINE: usize = 64 << 10;
/// Bytes read at once.
const READ_SIZE: usize = 4 << 10;
/// The pause after a failed accept: the listener stays readable, so that trying at once would spin.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

impl Monitor {
    /// Accepts clients of the text monitor until [`Monitor::shutdown`].
    ///
    /// # Errors
    /// Fails if the event loop does not accept the listener.
    pub fn listen_text(&self, listener: Listener) -> io::Result<()> {
        let listener = AsyncFd::new(listener)?;
        let monitor = self.clone();
        self.keep(executor::spawn(async move {
            loop {
                let accepted = listener.read_io(Listener::accept).await;
                if let Err(e) = accepted.and_then(|socket| monitor.serve_text(socket)) {
                    executor::limited!(warn, "accepting a text monitor client: {e}");
                    executor::sleep(ACCEPT_AGAIN).await;
                }
            }
        }));
        Ok(())
    }

    fn serve_text(&self, socket: Socket) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let socket = Rc::new(AsyncFd::new(socket)?);
        let monitor = self.clone();
        executor::spawn(async move {
            // An error means that the client is gone: there is nobody to report it to.
            let _ = monitor.text_session(&socket).await;
        });
        Ok(())
    }

    async fn text_session(&self, socket: &AsyncFd<Socket>) -> io::Result<()> {
        let mut line = Vec::new();
        let mut buffer = vec![0; READ_SIZE];
        // After a failed write nothing more is sent, but every complete line from the client is still run.
        let mut reads = write(socket, PROMPT).await.is_ok();
        let mut wants_password = false;
        loop {
            let length = socket.read_io(|socket| (&mut &*socket).read(&mut buffer)).await?;
            if length == 0 {
                return Ok(());
            }
            for &byte in &buffer[..length] {
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > MAX_LINE {
                        return write(socket, "the line is too long\r\n").await;
                    }
                    continue;
                }
                let text = String::from_utf8_lossy(&line).into_owned();
                line.clear();
                let text = text.trim_end_matches('\r');
                let _busy = self.busy();
                let said = if std::mem::take(&mut wants_password) {
                    hmp::set_password(self, text).await + PROMPT
                } else if hmp::asks_password(text) {
                    wants_password = true;
                    hmp::PASSWORD_PROMPT.to_owned()
                } else {
                    hmp::execute(self, text).await + PROMPT
                };
                reads = reads && write(socket, &said.replace('\n', "\r\n")).await.is_ok();
            }
        }
    }
}

/// Sends the whole text. A client that does not read delays only its own next line.
async fn write(socket: &AsyncFd<Socket>, text: &str) -> io::Result<()> {
    let mut left = text.as_bytes();
    while !left.is_empty() {
        let length = socket.write_io(|socket| (&mut &*socket).write(left)).await?;
        left = &left[length.min(left.len())..];
    }
    Ok(())
}
