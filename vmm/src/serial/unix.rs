//! A listening socket as a terminal's back end.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use executor::AsyncFd;
use qmp::{Address, AddressError};

use super::backend::{CHUNK, Output, first};
use super::stdio::offer;
use super::terminal::Terminal;
use crate::notice::Waiter;

/// A bound socket, removed from the file system when dropped.
pub(super) struct Listener(qmp::Listener);

impl Listener {
    /// Binds `path`, for this process's user only. Replaces a socket that a dead process left there, but
    /// nothing else.
    pub(super) fn bind(path: &Path) -> Result<Self, AddressError> {
        qmp::Listener::bind(&Address::Unix(path.into())).map(Listener)
    }

    /// Serves one client after the other, until the port is finishing.
    pub(super) async fn serve(self, output: Output, room: Waiter) {
        let listener = match AsyncFd::new(self.0) {
            Ok(listener) => listener,
            Err(e) => return executor::limited!(warn, "terminal socket: {e}"),
        };
        let next: RefCell<Option<UnixStream>> = RefCell::new(None);
        while !output.finishing() {
            let accept = async {
                match listener.read_io(qmp::Listener::accept).await {
                    Ok(client) => *next.borrow_mut() = Some(OwnedFd::from(client).into()),
                    Err(e) => {
                        executor::limited!(warn, "terminal socket: {e}");
                        // Most likely we are out of file descriptors: the client keeps waiting in the
                        // backlog.
                        executor::sleep(Duration::from_secs(1)).await;
                    }
                }
            };
            first(accept, output.changed()).await;
            let client = next.borrow_mut().take();
            if let Some(client) = client
                && let Err(e) = serve_client(client, &output, &room).await
            {
                executor::limited!(warn, "terminal client: {e}");
            }
        }
    }
}

async fn serve_client(client: UnixStream, output: &Output, room: &Waiter) -> io::Result<()> {
    client.set_nonblocking(true)?;
    let client = AsyncFd::new(client)?;
    // Bytes taken from the port but not sent to the client yet; the next client gets them.
    let unsent = RefCell::new(Vec::new());
    first(send(&client, output, &unsent), receive(&client, &*output.port, room)).await;
    output.port.return_output(&unsent.borrow());
    Ok(())
}

async fn send(client: &AsyncFd<UnixStream>, output: &Output, unsent: &RefCell<Vec<u8>>) {
    while let Some(bytes) = output.next().await {
        unsent.replace(bytes);
        while !unsent.borrow().is_empty() {
            match client.write_io(|mut client| client.write(&unsent.borrow())).await {
                Ok(sent) => drop(unsent.borrow_mut().drain(..sent)),
                Err(_) => return,
            }
        }
    }
}

/// Passes the client's bytes to the guest until the client is gone. A client that has only shut down its
/// sending side still receives.
async fn receive(client: &AsyncFd<UnixStream>, port: &dyn Terminal, room: &Waiter) {
    let mut bytes = [0; CHUNK];
    loop {
        match client.read_io(|mut client| client.read(&mut bytes)).await {
            Ok(0) => break,
            Ok(count) => offer(port, room, &bytes[..count]).await,
            Err(_) => return,
        }
    }
    loop {
        client.clear_readable();
        if has_gone(client.get()) {
            return;
        }
        client.readable().await;
    }
}

fn has_gone(client: &UnixStream) -> bool {
    let mut poll = libc::pollfd { fd: client.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one pollfd, as the count says.
    unsafe { libc::poll(&mut poll, 1, 0) > 0 && poll.revents & (libc::POLLHUP | libc::POLLERR) != 0 }
}
