//! The process that connects.

use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use sandbox::Mode;
use serde_json::{Value, json};

use super::{MOST, receive};
use crate::pipes::{self, Peer};

/// The time that a monitor has for each reply, and a screen's address for a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest reply of a monitor that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// Serves requests from standard input, a socket, until that ends.
///
/// # Errors
/// If standard input is not such a socket.
pub fn run(sockets: Vec<PathBuf>) -> io::Result<()> {
    // It opens no file and starts no program. What the kernel lacks, the page's process reports.
    let _ = sandbox::allow_only(&[]);
    let _ = sandbox::confine_program(Mode::On);
    serve(Arc::new(io::stdin().as_fd().try_clone_to_owned()?), &Arc::new(sockets))
}

/// Serves requests from `socket` until that ends.
pub(super) fn serve(socket: Arc<OwnedFd>, sockets: &Arc<Vec<PathBuf>>) -> io::Result<()> {
    let running = Arc::new(AtomicUsize::new(0));
    while let Some((request, _)) = receive(&socket)? {
        let id = request["id"].clone();
        let (own, sockets, count) = (Arc::clone(&socket), Arc::clone(sockets), Arc::clone(&running));
        // A connection may take long; the others do not wait for it.
        let work = move || {
            let connected = connect(&sockets, &request);
            count.fetch_sub(1, Ordering::Relaxed);
            reply(&own, &request["id"], connected);
        };
        let started = if running.fetch_add(1, Ordering::Relaxed) < MOST {
            std::thread::Builder::new().name("connect".to_owned()).spawn(work).map(drop)
        } else {
            Err(io::Error::other("too many connections are being made"))
        };
        if let Err(e) = started {
            running.fetch_sub(1, Ordering::Relaxed);
            reply(&socket, &id, Err(e));
        }
    }
    Ok(())
}

fn reply(socket: &OwnedFd, id: &Value, connected: io::Result<OwnedFd>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let message = match &connected {
        Ok(_) => json!({"id": id}),
        // An error of a monitor may be of any length.
        Err(e) => json!({"id": id, "error": e.to_string().chars().take(500).collect::<String>()}),
    };
    let descriptors = connected.as_ref().map(AsFd::as_fd).into_iter().collect::<Vec<_>>();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    let message = message.to_string();
    // The page's process may have gone.
    let _ =
        rustix::net::sendmsg(socket, &[IoSlice::new(message.as_bytes())], &mut control, SendFlags::NOSIGNAL);
}

fn connect(sockets: &[PathBuf], request: &Value) -> io::Result<OwnedFd> {
    let number = request["machine"].as_u64().and_then(|number| usize::try_from(number).ok());
    let socket = number.and_then(|number| sockets.get(number)).ok_or(io::ErrorKind::NotFound)?;
    let Some(pipe) = request["pipe"].as_str() else { return Ok(UnixStream::connect(socket)?.into()) };
    match peer(socket, pipe)? {
        Peer::Unix(path) => match (UnixStream::connect(&path), socket.parent()) {
            // A relative path, of a machine that was started in another folder than this program: its sockets
            // often lie together.
            (Err(e), Some(folder)) if e.kind() == io::ErrorKind::NotFound => {
                Ok(UnixStream::connect(folder.join(path))?.into())
            }
            (connected, _) => Ok(connected?.into()),
        },
        Peer::Tcp(address) => Ok(TcpStream::connect_timeout(&address, PATIENCE)?.into()),
    }
}

/// Asks a monitor where one of its machine's pipes is.
fn peer(socket: &Path, pipe: &str) -> io::Result<Peer> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?).take(LONGEST);
    let mut next = || -> io::Result<Value> {
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line)?;
        serde_json::from_slice(&line).map_err(io::Error::other)
    };
    let greeting = next()?;
    if greeting.get("QMP").is_none() {
        return Err(io::Error::other("no greeting of QMP"));
    }
    let command = pipes::command(pipe);
    for command in ["qmp_capabilities", command] {
        (&stream).write_all(format!("{}\n", json!({"execute": command, "id": command})).as_bytes())?;
    }
    loop {
        // Events may come in between.
        let message = next()?;
        if message["id"] == command {
            return pipes::peer(&message["return"], pipe)
                .ok_or_else(|| io::Error::other(format!("the machine has no '{pipe}' on a socket")));
        }
    }
}
