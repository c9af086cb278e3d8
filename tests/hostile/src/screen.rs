//! Any bytes as the messages of a VNC client.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;

use executor::{AsyncFd, Executor};
use rfb::{Config, Event, Input, Lines, Password, Pointer, Screen, Server, Size};

const SIZE: Size = Size { width: 100, height: 40 };

/// Serves a client that sends these bytes. The lowest bit of the first one decides if it needs a password.
pub fn vnc(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let (password, data) = ((first & 1 != 0).then(Password::new), data.to_vec());
    let Ok(executor) = Executor::new() else { return };
    executor.block_on(async move {
        let Ok((listener, client)) = connected() else { return };
        let ended = Rc::new(executor::sync::Event::new());
        let (gone, notified) = (Rc::new(Cell::new(false)), ended.clone());
        let is_gone = gone.clone();
        let events = move |event| {
            if matches!(event, Event::Disconnected(_)) {
                is_gone.set(true);
                notified.notify();
            }
        };
        let config = Config { password, ..Config::default() };
        let Ok(server) = Server::start(listener, config, Rc::new(Still), Rc::new(Still), events) else {
            return;
        };
        let sending = client.clone();
        let sender = executor::spawn(async move {
            let mut at = 0;
            while at < data.len() {
                match sending.write_io(|mut socket| socket.write(&data[at..])).await {
                    Ok(n) => at += n,
                    Err(_) => break,
                }
            }
            let _ = sending.get().shutdown(Shutdown::Write);
        });
        let taker = executor::spawn(async move {
            let mut sink = vec![0; 64 << 10];
            while matches!(client.read_io(|mut socket| socket.read(&mut sink)).await, Ok(1..)) {}
        });
        sender.await;
        while !gone.get() {
            ended.wait().await;
        }
        taker.await;
        server.stop();
    });
}

/// Returns a listening socket, and a client whose connection waits to be accepted.
fn connected() -> std::io::Result<(UnixListener, Rc<AsyncFd<UnixStream>>)> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    use std::sync::atomic::{AtomicU64, Ordering};
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let name = format!("hostile-vnc-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let address = SocketAddr::from_abstract_name(name)?;
    let listener = UnixListener::bind_addr(&address)?;
    let client = UnixStream::connect_addr(&address)?;
    client.set_nonblocking(true)?;
    Ok((listener, Rc::new(AsyncFd::new(client)?)))
}

/// A screen that never changes.
struct Still;

impl Screen for Still {
    fn size(&self) -> Size {
        SIZE
    }

    fn take_dirty_lines(&self, _: &mut Lines) {}

    fn read_line(&self, line: u16, pixels: &mut [u32]) {
        pixels.iter_mut().zip(0..).for_each(|(pixel, x)| *pixel = x * u32::from(line));
    }
}

impl Input for Still {
    fn key(&self, code: u16, _: bool) {
        assert!(code > 0 && code < 256, "key {code}");
    }

    fn pointer(&self, pointer: Pointer) {
        assert!(pointer.x < SIZE.width && pointer.y < SIZE.height, "{pointer:?}");
    }
}

pub(crate) fn corpus() -> Vec<Vec<u8>> {
    // Version 3.8, no security, shared.
    let begin = [&[0][..], b"RFB 003.008\n", &[1, 1]].concat();
    let request = |incremental: u8| [3, incremental, 0, 0, 0, 0, 0, 100, 0, 40];
    let zrle = [2, 0, 0, 3, 0, 0, 0, 16, 0xff, 0xff, 0xff, 0x21, 0xff, 0xff, 0xfe, 0xfe];
    let mapped = [0, 0, 0, 0, 8, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let big_endian = [0, 0, 0, 0, 16, 16, 1, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0, 0, 0, 0];
    let keys = [4, 1, 0, 0, 0, 0, 0, b'A', 255, 0, 0, 1, 0, 0, 0, b'a', 0, 0, 0, 30, 5, 9, 0, 5, 0, 200];
    vec![
        [&begin[..], &request(0), &keys, &request(1)].concat(),
        [&begin[..], &zrle, &request(0), &keys].concat(),
        [&begin[..], &mapped, &zrle, &request(0), &big_endian, &request(0)].concat(),
        [&begin[..], &[6, 0, 0, 0, 0, 0, 0, 3], b"abc", &request(0)].concat(),
        [&[0][..], b"RFB 003.003\n", &[0], &request(0)].concat(),
        [&[1][..], b"RFB 003.007\n", &[2], &[7; 16]].concat(),
    ]
}

/// A client holds a piece of an update and its encoding; keys and requests hold nothing.
pub(crate) fn memory(input: usize) -> usize {
    (8 << 20) + 16 * input
}
