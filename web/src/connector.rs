//! Connections to machines, made by a process of its own.
//!
//! The process that talks to browsers may connect nowhere ([`sandbox::Role::Page`]), so whatever takes it
//! over is left with the connections that it has. The connector makes new ones for it, and passes the
//! descriptors. It connects to the monitors that were named at start, and to the consoles and the screen that
//! such a monitor names: a request holds the number of a machine, and no path.
//!
//! Messages are JSON in packets of a socket pair (SOCK_SEQPACKET); a descriptor comes with its reply
//! (SCM_RIGHTS).

mod process;

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags, SocketType,
};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;

pub use process::run;

/// The longest message of either side, in bytes.
const LONGEST: usize = 4096;
/// The most connections that are being made.
const MOST: usize = 64;

/// A connection to a machine.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The way to the process. A clone leads to the same one.
#[derive(Clone)]
pub struct Connector(Arc<Inner>);

struct Inner {
    /// Of packets: it is only waited for by this type, and neither read nor written.
    socket: UnixStream,
    next: AtomicU64,
    /// The requests without a reply; `None` after the process has ended.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<io::Result<OwnedFd>>>>>,
}

impl Connector {
    /// Starts the process, for the monitors of these machines. It ends when this one does.
    ///
    /// # Errors
    /// If there can be no process.
    pub fn start(sockets: &[PathBuf]) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let (own, other) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let mut command = Command::new("/proc/self/exe");
        // Its standard output is not this one's: somebody may wait for the end of that.
        command.arg0("millrace-web").arg("--connector").arg("--").args(sockets);
        command.stdin(other).stdout(Stdio::null());
        // It ends when its end of the socket pair does; nobody waits for it.
        drop(command.spawn()?);
        Connector::over(own)
    }

    /// Creates a connector that connects to nothing.
    ///
    /// # Errors
    /// If there can be no socket.
    pub fn to_nothing() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let (own, _) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Connector::over(own)
    }

    /// A connector whose process is at the other end of `socket`.
    fn over(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let socket = UnixStream::from_std(socket.into())?;
        let (next, waiting) = (AtomicU64::new(0), Mutex::new(Some(HashMap::new())));
        let inner = Arc::new(Inner { socket, next, waiting });
        let receiving = Arc::downgrade(&inner);
        tokio::spawn(async move {
            // Ends with the last connector, or with the process.
            while let Some(inner) = receiving.upgrade() {
                if inner.receive().await.is_err() {
                    *inner.waiting.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    return;
                }
            }
        });
        Ok(Connector(inner))
    }

    /// Connects to the monitor of a machine, or to one of its pipes: `vnc`, or the name of a console.
    ///
    /// # Errors
    /// Those of connect(2); if the machine has no such pipe; and too many connections at once.
    pub async fn connect(&self, machine: usize, pipe: Option<&str>) -> io::Result<Box<dyn Stream>> {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let message = json!({"id": id, "machine": machine, "pipe": pipe}).to_string();
        if message.len() > LONGEST {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let waiting = waiting.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
            if waiting.len() >= MOST {
                return Err(io::Error::other("too many connections are being made"));
            }
            waiting.insert(id, sender);
        }
        // A packet is sent whole or not at all.
        let sent = rustix::net::send(&self.0.socket, message.as_bytes(), SendFlags::NOSIGNAL);
        if let Err(e) = sent {
            let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.as_mut().map(|waiting| waiting.remove(&id));
            return Err(e.into());
        }
        let connected = receiver.await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))??;
        stream(connected)
    }
}

impl Inner {
    /// Receives one reply and passes it on.
    async fn receive(&self) -> io::Result<()> {
        let received = self.socket.async_io(Interest::READABLE, || receive(&self.socket)).await?;
        let (reply, descriptor) = received.ok_or(io::ErrorKind::UnexpectedEof)?;
        let connected = match descriptor {
            Some(descriptor) => Ok(descriptor),
            None => Err(io::Error::other(reply["error"].as_str().unwrap_or("no connection").to_owned())),
        };
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = waiting.as_mut().zip(reply["id"].as_u64()).and_then(|(waiting, id)| waiting.remove(&id));
        // Whoever asked may have gone.
        sender.map(|sender| sender.send(connected));
        Ok(())
    }
}

/// Receives a message, and the descriptor that came with it. Returns `None` at the end.
fn receive(socket: impl AsFd) -> io::Result<Option<(Value, Option<OwnedFd>)>> {
    let (mut bytes, mut space) = ([0; LONGEST], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let mut descriptor = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            descriptor = descriptors.next();
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let message = bytes.get(..received.bytes).unwrap_or_default();
    Ok(Some((serde_json::from_slice(message).map_err(io::Error::other)?, descriptor)))
}

/// Makes a stream of a connected socket.
fn stream(socket: OwnedFd) -> io::Result<Box<dyn Stream>> {
    rustix::io::ioctl_fionbio(&socket, true)?;
    if rustix::net::sockopt::socket_domain(&socket)? == AddressFamily::UNIX {
        Ok(Box::new(UnixStream::from_std(socket.into())?))
    } else {
        Ok(Box::new(TcpStream::from_std(socket.into())?))
    }
}

#[cfg(test)]
#[path = "connector_tests.rs"]
pub mod tests;
