//! The port's buffers, the escape key, and a real socket.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use executor::{AsyncFd, Executor};

use super::port::{INPUT_MAX, OUTPUT_MAX};
use super::stdio::Escape;
use super::*;
use crate::bus::Target;
use crate::notice::Notices;

const DATA: u64 = 0;
const LINE_STATUS: u64 = 5;
const MODEM_CONTROL: u64 = 4;

fn guest_reads(port: &Port) -> Option<u8> {
    let mut status = [0];
    port.read(LINE_STATUS, &mut status);
    let mut byte = [0];
    (status[0] & 1 != 0).then(|| {
        port.read(DATA, &mut byte);
        byte[0]
    })
}

#[test]
fn back_ends_are_parsed() {
    assert_eq!("stdio".parse(), Ok(Backend::Stdio));
    assert_eq!("null".parse(), Ok(Backend::Null));
    assert_eq!("file:a:b".parse(), Ok(Backend::File("a:b".into())));
    assert_eq!("unix:/s".parse(), Ok(Backend::Unix("/s".into())));
    assert_eq!("file:a,,b".parse(), Ok(Backend::File("a,b".into())));
    assert_eq!("unix:/s,server=on,wait=off".parse(), Ok(Backend::Unix("/s".into())));
    for (wrong, says) in [
        ("", "file:PATH"),
        ("file", "file:PATH"),
        ("file:", "file:PATH"),
        ("stdio:", "file:PATH"),
        ("tcp:1", "file:PATH"),
        ("unix:", "unix:PATH"),
        ("unix:/s,telnet=on", "telnet=on"),
        ("file:/s,append=on", "written ',,'"),
    ] {
        let error = wrong.parse::<Backend>().unwrap_err();
        assert!(error.contains(says), "{wrong}: {error}");
    }
}

#[test]
fn output_beyond_the_bound_pushes_out_the_oldest() {
    let port = Port::new(true).unwrap();
    for n in 0..OUTPUT_MAX + 10 {
        port.write(DATA, &[n as u8]);
    }
    let bytes = port.take_output(usize::MAX);
    assert_eq!(bytes.len(), OUTPUT_MAX);
    assert_eq!(bytes[0], 10);
    port.write(DATA, b"xyz");
    port.return_output(b"abc");
    assert_eq!(port.take_output(4), b"abcx");
    assert_eq!(port.take_output(4), b"yz");
    let silent = Port::new(false).unwrap();
    silent.write(DATA, b"x");
    assert!(silent.take_output(4).is_empty());
}

#[test]
fn input_reaches_the_guest_whole_and_in_order() {
    let port = Port::new(true).unwrap();
    let sent: Vec<u8> = (0..20_000u32).map(|n| (n % 251) as u8).collect();
    let (mut offered, mut got) = (0, Vec::new());
    while got.len() < sent.len() {
        offered += port.offer_input(&sent[offered..]);
        while let Some(byte) = guest_reads(&port) {
            got.push(byte);
            if got.len() % 777 == 0 {
                // The console's own loopback test must not lose what was waiting.
                port.write(MODEM_CONTROL, &[0x10]);
                port.write(MODEM_CONTROL, &[0x08]);
            }
        }
    }
    assert_eq!(got, sent);
    // One FIFO's worth (64) is in the UART, the rest in the buffer, and no more is taken.
    assert_eq!(port.offer_input(&vec![0; 3 * INPUT_MAX]), INPUT_MAX);
    assert_eq!(port.offer_input(&[0; 100]), 64);
    assert_eq!(port.offer_input(&[0; 100]), 0);
}

#[test]
fn a_panic_on_the_console_is_seen_until_reset() {
    let port = Port::new(false).unwrap();
    port.write(DATA, b"[    1.000000] Kernel panic - not");
    assert!(!port.saw_panic());
    port.write(DATA, b" syncing: x\r\n");
    assert!(port.saw_panic());
    port.reset().unwrap();
    assert!(!port.saw_panic());
}

#[test]
fn ctrl_a_x_quits_and_the_rest_passes() {
    let mut escape = Escape::default();
    assert_eq!(escape.filter(b"a\x01"), (b"a".to_vec(), false));
    assert_eq!(escape.filter(b"\x01b\x01c"), (b"\x01b\x01c".to_vec(), false));
    assert_eq!(escape.filter(b"d\x01xignored"), (b"d".to_vec(), true));
}

async fn read_exactly(client: &AsyncFd<UnixStream>, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        let mut chunk = vec![0; count - bytes.len()];
        let n = client.read_io(|mut client| client.read(&mut chunk)).await.unwrap();
        assert_ne!(n, 0);
        bytes.extend_from_slice(&chunk[..n]);
    }
    bytes
}

#[test]
fn a_socket_serves_clients_in_turn_and_replays_what_they_missed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("serial");
    // A socket that a dead process left behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let socket = path.clone();
    Executor::new().unwrap().block_on(async move {
        let port = Arc::new(Port::new(true).unwrap());
        let notices = Arc::new(Notices::new().unwrap());
        let running = Backend::Unix(path.clone()).start(port.clone(), notices.clone()).unwrap();
        assert!(Backend::Unix(path.clone()).start(port.clone(), notices).is_err(), "in use");

        let connect = || {
            let client = UnixStream::connect(&path).unwrap();
            client.set_nonblocking(true).unwrap();
            AsyncFd::new(client).unwrap()
        };
        port.write(DATA, b"before ");
        let client = connect();
        assert_eq!(read_exactly(&client, 7).await, b"before ");
        client.get().write_all(b"typed").unwrap();
        client.get().shutdown(std::net::Shutdown::Write).unwrap();
        let mut typed = Vec::new();
        while typed.len() < 5 {
            match guest_reads(&port) {
                Some(byte) => typed.push(byte),
                None => executor::yield_now().await,
            }
        }
        assert_eq!(typed, b"typed");
        port.write(DATA, b"half-closed ");
        assert_eq!(read_exactly(&client, 12).await, b"half-closed ");
        drop(client);

        let second = connect();
        port.write(DATA, b"second");
        assert_eq!(read_exactly(&second, 6).await, b"second");
        port.write(DATA, b" bye");
        running.finish().await;
        assert_eq!(read_exactly(&second, 4).await, b" bye");
    });
    assert!(!socket.exists());
}

#[test]
fn a_socket_takes_the_place_of_nothing_but_a_dead_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious.img");
    let start = |path: PathBuf| {
        let notices = Arc::new(Notices::new().unwrap());
        Backend::Unix(path).start(Arc::new(Port::new(true).unwrap()), notices)
    };
    std::fs::write(&path, "precious").unwrap();
    Executor::new().unwrap().block_on(async move {
        assert!(start(path.clone()).err().unwrap().contains("is not a socket"));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let socket = path.with_extension("sock");
        let running = start(socket.clone()).unwrap();
        // In many guests, anyone who types there is root.
        assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        // Another file has taken the socket's place meanwhile.
        std::fs::rename(&path, &socket).unwrap();
        running.finish().await;
        assert_eq!(std::fs::read(&socket).unwrap(), b"precious");
    });
}

/// Opens a file and locks a byte of it for reading, as a program does that uses an image.
fn locked(path: &Path) -> File {
    let file = File::open(path).unwrap();
    let lock = libc::flock {
        l_type: libc::F_RDLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 100,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: `lock` is a valid flock structure, which the call only reads.
    assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) }, 0);
    file
}

#[test]
fn a_file_that_is_in_use_is_not_emptied() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.img");
    std::fs::write(&path, "precious").unwrap();
    Executor::new().unwrap().block_on(async move {
        let start = || {
            let notices = Arc::new(Notices::new().unwrap());
            Backend::File(path.clone()).start(Arc::new(Port::new(true).unwrap()), notices)
        };
        let image = locked(&path);
        assert!(start().err().unwrap().contains("in use"));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        drop(image);
        start().unwrap().finish().await;
        assert_eq!(std::fs::read(&path).unwrap(), b"");
        assert!(
            Backend::File("/dev/null".into())
                .start(Arc::new(Port::new(true).unwrap()), Arc::new(Notices::new().unwrap()))
                .is_ok()
        );
    });
}

#[test]
fn a_file_holds_everything_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let file = path.clone();
    Executor::new().unwrap().block_on(async move {
        let port = Arc::new(Port::new(true).unwrap());
        let running = Backend::File(file).start(port.clone(), Arc::new(Notices::new().unwrap())).unwrap();
        for _ in 0..1000 {
            port.write(DATA, b"0123456789");
        }
        running.finish().await;
    });
    assert_eq!(std::fs::read(path).unwrap(), b"0123456789".repeat(1000));
}
