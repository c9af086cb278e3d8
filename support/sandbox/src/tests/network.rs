//! Tests that landlock holds without seccomp, and so against an io_uring too.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};

use io_uring::{IoUring, opcode, squeue, types};
use libc::*;

use super::{confined, errno, landlock};
use crate::{Mode, Role, files};

/// Runs `work` on a thread that is confined by landlock only.
fn landlocked<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        files::allow_none().unwrap();
        work()
    });
    thread.join().unwrap()
}

fn kind<T>(result: io::Result<T>) -> Option<io::ErrorKind> {
    result.err().map(|e| e.kind())
}

#[test]
fn connections_sockets_and_signals_are_refused_by_landlock_too() {
    const REFUSED: Option<io::ErrorKind> = Some(io::ErrorKind::PermissionDenied);
    let version = landlock();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    if version >= 4 {
        assert_eq!(landlocked(move || kind(TcpStream::connect(to))), REFUSED);
        assert_eq!(landlocked(|| kind(TcpListener::bind("127.0.0.1:0"))), REFUSED);
    } else {
        eprintln!("not tried: this kernel's landlock {version} does not cover the network");
    }
    let name = format!("millrace-sandbox-{}", std::process::id());
    let address = UnixAddr::from_abstract_name(name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let parent = std::os::unix::process::parent_id() as usize;
    if version >= 6 {
        assert_eq!(landlocked(move || kind(UnixStream::connect_addr(&address))), REFUSED);
        assert_eq!(landlocked(move || errno(SYS_kill, &[parent, 0])), EPERM);
    } else {
        eprintln!("not tried: this kernel's landlock {version} covers no abstract sockets and signals");
    }
    // In any version.
    assert_eq!(landlocked(|| kind(std::fs::File::open("/etc/passwd"))), REFUSED);
    assert_eq!(landlocked(|| errno(SYS_kill, &[std::process::id() as usize, 0])), 0);
}

/// Performs one operation on the ring. Returns its result: an error is the negated error number.
fn done(ring: &mut IoUring, entry: &squeue::Entry) -> i32 {
    // SAFETY: the memory that the entry names outlives the operation, whose end is awaited here.
    unsafe { ring.submission().push(entry).unwrap() };
    ring.submit_and_wait(1).unwrap();
    ring.completion().next().unwrap().result()
}

#[test]
fn a_ring_that_nobody_restricted_opens_and_connects_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let SocketAddr::V4(to) = listener.local_addr().unwrap() else { panic!("no IPv4") };
    let version = landlock();
    // A socket from before the confinement: landlock checks the connection, not the creation of the
    // socket.
    let socket = socket_of_before();
    let mut ring = IoUring::new(8).expect("this host grants no io_uring: allow it to run these tests");
    let (opened, connected) = confined(Role::Disk, Mode::On, move || {
        let path = c"/etc/passwd";
        let open = opcode::OpenAt::new(types::Fd(AT_FDCWD), path.as_ptr()).build();
        let opened = done(&mut ring, &open);
        let address = sockaddr_in {
            sin_family: AF_INET as u16,
            sin_port: to.port().to_be(),
            sin_addr: in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
            sin_zero: [0; 8],
        };
        let fd = types::Fd(socket.as_raw_fd());
        let connect = opcode::Connect::new(fd, (&raw const address).cast(), size_of_val(&address) as u32);
        (opened, done(&mut ring, &connect.build()))
    });
    assert_eq!(opened, -EACCES);
    if version >= 4 {
        assert_eq!(connected, -EACCES);
    } else {
        eprintln!("landlock {version} does not cover the network; a bare ring connects: {connected}");
    }
}

/// A TCP socket that is not connected.
fn socket_of_before() -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: a system call without memory; the descriptor is new and owned by nobody else.
    unsafe {
        let fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert!(fd >= 0);
        std::os::fd::OwnedFd::from_raw_fd(fd)
    }
}
