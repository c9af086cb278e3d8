//! The addresses that a monitor, or another server, listens on: `unix:PATH` or `tcp:HOST:PORT`.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use socket2::{Domain, SockAddr, Socket, Type};

/// A socket's address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// `unix:PATH`: a socket file, which only its owner can connect to.
    Unix(PathBuf),
    /// `tcp:HOST:PORT`: everybody who can reach it controls the machine.
    Tcp(String),
}

/// The reason why an address cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Neither `unix:PATH` nor `tcp:HOST:PORT`.
    #[error("'{0}' is neither unix:PATH nor tcp:HOST:PORT")]
    Syntax(String),
    /// An option after the address that is unknown or not supported.
    #[error("'{0}': {1}")]
    Option(String, &'static str),
    /// `tcp::PORT`, which QEMU takes for all addresses of the host.
    #[error("'{0}' names no host: use 127.0.0.1, or 0.0.0.0 for all addresses of this host")]
    NoHost(String),
    /// Another process listens there.
    #[error("{0}: another process listens on this socket")]
    InUse(PathBuf),
    /// A file that is not a socket is in the way.
    #[error("{0} exists and is not a socket")]
    NoSocket(PathBuf),
    /// The host refused.
    #[error("{address}: {source}")]
    Io {
        /// The address.
        address: Address,
        /// The host's error.
        source: io::Error,
    },
}

/// Removes the options of QEMU's syntax from an address (`unix:PATH,server=on,wait=off`). A comma that
/// belongs to the address is doubled.
fn without_options(text: &str) -> Result<String, AddressError> {
    let text = text.replace(",,", "\0");
    let mut parts = text.split(',');
    let address = parts.next().unwrap_or_default().replace('\0', ",");
    for option in parts {
        let refuse = |why| Err(AddressError::Option(option.replace('\0', ","), why));
        match option {
            "server" | "server=on" | "wait=off" | "nowait" => {}
            "server=off" => return refuse("connecting is not supported: the program listens on its sockets"),
            "wait" | "wait=on" => return refuse("waiting for a client is not supported; use wait=off"),
            _ => return refuse("unknown socket option; write a comma in a path as ',,'"),
        }
    }
    Ok(address)
}

impl FromStr for Address {
    type Err = AddressError;

    /// Parses `unix:PATH` or `tcp:HOST:PORT`. The options that QEMU needs to listen without waiting
    /// (`,server=on,wait=off`) are allowed, since that is what is done anyway.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let address = without_options(text)?;
        if let Some(path) = address.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Address::Unix(path.into()));
        }
        let tcp = address.strip_prefix("tcp:").and_then(|rest| rest.rsplit_once(':'));
        match tcp {
            // Everybody who connects controls the machine: an omission must not let the whole network in.
            Some(("", port)) if port.parse::<u16>().is_ok() => Err(AddressError::NoHost(text.to_owned())),
            Some((host, port)) if port.parse::<u16>().is_ok() => Ok(Address::Tcp(format!("{host}:{port}"))),
            _ => Err(AddressError::Syntax(text.to_owned())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display().to_string().replace(',', ",,")),
            Address::Tcp(host_port) => write!(f, "tcp:{host_port}"),
        }
    }
}

impl Address {
    /// Connects once.
    pub(crate) fn connect(&self) -> io::Result<Socket> {
        match self {
            Address::Unix(path) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                socket.connect(&SockAddr::unix(path)?)?;
                Ok(socket)
            }
            Address::Tcp(host_port) => first(host_port, |address| {
                let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
                socket.connect(&address.into())?;
                socket.set_tcp_nodelay(true)?;
                Ok(socket)
            }),
        }
    }
}

/// Tries the addresses of a host one after the other. Returns the first success, or the last error.
fn first<T>(host_port: &str, mut attempt: impl FnMut(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in host_port.to_socket_addrs()? {
        match attempt(address) {
            Ok(made) => return Ok(made),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// The identity of a file: its device and inode.
type FileId = (u64, u64);

fn file_id(path: &Path) -> io::Result<FileId> {
    path.symlink_metadata().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The file of a bound socket.
type BoundFile = (PathBuf, FileId);

/// The files of this process's listeners.
static BOUND: Mutex<Vec<BoundFile>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A bound, listening socket. Dropping it closes it and removes its file.
pub struct Listener {
    socket: Socket,
    file: Option<BoundFile>,
}

/// The most connections that wait to be accepted.
const BACKLOG: i32 = 128;

impl Listener {
    /// Binds and listens. A socket file that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// [`AddressError::InUse`] and [`AddressError::NoSocket`] if something else has that path, and the
    /// host's errors.
    pub fn bind(address: &Address) -> Result<Self, AddressError> {
        let io = |source| AddressError::Io { address: address.clone(), source };
        match address {
            Address::Unix(path) => {
                remove_stale(path)?;
                Self::bind_unix(path).map_err(io)
            }
            Address::Tcp(host_port) => {
                let bind = |address: SocketAddr| {
                    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
                    socket.set_reuse_address(true)?;
                    socket.bind(&address.into())?;
                    socket.listen(BACKLOG)?;
                    socket.set_nonblocking(true)?;
                    Ok(Listener { socket, file: None })
                };
                first(host_port, bind).map_err(io)
            }
        }
    }

    fn bind_unix(path: &Path) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // Held until the file is recorded: an exit of the process may remove the sockets at any time.
        let mut bound = lock(&BOUND);
        socket.bind(&SockAddr::unix(path)?)?;
        let file = (path.to_owned(), file_id(path)?);
        bound.push(file.clone());
        drop(bound);
        // From here on dropping the listener removes the file.
        let listener = Listener { socket, file: Some(file) };
        // Before `listen`, so that nobody else can have connected meanwhile.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        listener.socket.listen(BACKLOG)?;
        listener.socket.set_nonblocking(true)?;
        Ok(listener)
    }

    /// Returns the address that it listens on, with the port that the host chose if port 0 was requested.
    pub fn address(&self) -> Option<Address> {
        match &self.file {
            Some((path, _)) => Some(Address::Unix(path.clone())),
            None => Some(Address::Tcp(self.socket.local_addr().ok()?.as_socket()?.to_string())),
        }
    }

    /// Accepts one connection.
    ///
    /// # Errors
    /// `WouldBlock` if no connection waits, and the host's errors.
    pub fn accept(&self) -> io::Result<Socket> {
        let (socket, _) = self.socket.accept()?;
        if self.file.is_none() {
            // Answers are small and awaited: they must not be held back for more to send.
            socket.set_tcp_nodelay(true)?;
        }
        Ok(socket)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            if let Err(e) = remove(file) {
                tracing::warn!("cannot remove the socket {}: {e}", file.0.display());
            }
            lock(&BOUND).retain(|other| other != file);
        }
    }
}

/// Removes a socket's file if it is still that one: somebody may have replaced it.
fn remove((path, id): &BoundFile) -> io::Result<()> {
    if file_id(path).is_ok_and(|now| now == *id) { std::fs::remove_file(path) } else { Ok(()) }
}

/// Gives the socket files of all listeners of this process to a user and a group, by number: from then
/// on only that user may connect. A file that is no longer that of its listener is left alone.
///
/// # Errors
/// Fails if the caller is not root, who alone may give files away, or with the host's error.
pub fn give_sockets(uid: u32, gid: u32) -> io::Result<()> {
    use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, chownat, fstat, open};
    for (path, (device, inode)) in &*lock(&BOUND) {
        // Opened before it is checked: in a folder that belongs to somebody else, the name may come to
        // mean another file.
        let Ok(file) = open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) else {
            continue;
        };
        let found = fstat(&file)?;
        if (found.st_dev, found.st_ino) == (*device, *inode) {
            chownat(&file, "", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)?;
        }
    }
    Ok(())
}

/// Removes the socket files of all listeners of this process, for an exit that runs no destructors.
/// Returns `false`, and does nothing, while another thread binds a socket; after `true` no thread can
/// bind one any more.
pub fn remove_sockets() -> bool {
    let Ok(mut bound) = BOUND.try_lock() else { return false };
    // Nobody is left to report an error to.
    bound.drain(..).for_each(|file| drop(remove(&file)));
    std::mem::forget(bound);
    true
}

/// Removes a socket file that a dead process left, and nothing else.
fn remove_stale(path: &Path) -> Result<(), AddressError> {
    let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(AddressError::NoSocket(path.to_owned()));
    }
    let io = |source| AddressError::Io { address: Address::Unix(path.to_owned()), source };
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(io)?;
    // Otherwise a live listener with a full backlog would block this thread.
    probe.set_nonblocking(true).map_err(io)?;
    match probe.connect(&SockAddr::unix(path).map_err(io)?) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(io),
        _ => Err(AddressError::InUse(path.to_owned())),
    }
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
