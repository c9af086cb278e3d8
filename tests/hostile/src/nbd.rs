//! Any bytes as the messages of an NBD peer: of a client to our server, and of a server to our client.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use ::nbd::client::{self, Client};
use ::nbd::{self, Connection, Export, Exports, Extent, Info};
use block::Buf;
use executor::{AsyncFd, Executor};

/// Size of the export, in bytes.
const SIZE: usize = 128 << 10;
/// The time-out, which never expires: the peer sends all its bytes and hangs up.
const PATIENCE: Duration = Duration::from_secs(600);

/// Serves a client that sends these bytes: options, then requests.
pub fn nbd_server(data: &[u8]) {
    talk(data, |connection| async move {
        let memory = Memory(Rc::new(RefCell::new(vec![1; SIZE])));
        if let Ok(Some((session, export))) = nbd::handshake(&connection, &memory, None).await {
            let _ = nbd::serve(&connection, session, export).await;
        }
    });
}

/// Runs a client of a server that sends these bytes: replies to options, then to requests.
pub fn nbd_client(data: &[u8]) {
    talk(data, |connection| async move {
        let Ok(offer) = client::negotiate(&connection, "disk").await else { return };
        assert!(offer.terms.min_block.is_power_of_two());
        let Ok(client) = Client::new(&connection, offer, PATIENCE) else { return };
        let _ = client.read(4096, Buf::new(8192)).await;
        let _ = client.write(0, Buf::new(512)).await;
        if client.terms().has_status()
            && let Ok(runs) = client.block_status(0, 1 << 20).await
        {
            let told: u64 = runs.iter().map(|run| u64::from(run.len)).sum();
            assert!(!runs.is_empty() && told <= 1 << 20);
        }
        let _ = client.write_zeroes(0, 4096, true).await;
        let _ = client.flush().await;
    });
}

/// The memory that a peer can make our side hold: for the server, one request's data of the largest
/// size.
pub(crate) fn memory(len: usize) -> usize {
    nbd::MAX_IN_FLIGHT as usize + 64 * len + (4 << 20)
}

/// Runs our side against a peer that sends `data`, shuts down its sending half, and reads everything
/// that arrives.
fn talk<F: Future<Output = ()> + 'static>(data: &[u8], ours: impl FnOnce(Connection) -> F + 'static) {
    let data = data.to_vec();
    let Ok(executor) = Executor::new() else { return };
    executor.block_on(async move {
        let Ok((socket, peer)) = UnixStream::pair() else { return };
        let Ok(connection) = Connection::new(socket) else { return };
        let Ok(peer) = nonblocking(peer) else { return };
        let sending = peer.clone();
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
            while matches!(peer.read_io(|mut socket| socket.read(&mut sink)).await, Ok(1..)) {}
        });
        ours(connection).await;
        sender.await;
        taker.await;
    });
}

fn nonblocking(socket: UnixStream) -> io::Result<Rc<AsyncFd<UnixStream>>> {
    socket.set_nonblocking(true)?;
    AsyncFd::new(socket).map(Rc::new)
}

#[derive(Clone)]
struct Memory(Rc<RefCell<Vec<u8>>>);

impl Export for Memory {
    fn size(&self) -> u64 {
        SIZE as u64
    }

    async fn read(&self, offset: u64, buf: Buf) -> nbd::Result<()> {
        buf.copy_from(&self.0.borrow()[offset as usize..][..buf.len()]);
        Ok(())
    }

    async fn write(&self, offset: u64, buf: Buf) -> nbd::Result<()> {
        buf.copy_to(&mut self.0.borrow_mut()[offset as usize..][..buf.len()]);
        Ok(())
    }

    async fn flush(&self) -> nbd::Result<()> {
        Ok(())
    }

    async fn trim(&self, offset: u64, len: u64) -> nbd::Result<()> {
        self.write_zeroes(offset, len, true).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64, _may_unmap: bool) -> nbd::Result<()> {
        self.0.borrow_mut()[offset as usize..][..len as usize].fill(0);
        Ok(())
    }

    async fn block_status(&self, offset: u64, len: u64) -> nbd::Result<Extent> {
        let content = self.0.borrow();
        let content = &content[offset as usize..][..len as usize];
        let data = content.first() != Some(&0);
        let run = content.iter().take_while(|byte| (**byte != 0) == data).count();
        Ok(Extent { len: run as u64, data, depth: 1 })
    }
}

impl Exports for Memory {
    type Found = Memory;

    fn names(&self) -> Vec<String> {
        vec!["disk".into()]
    }

    async fn find(&self, name: &str) -> Option<(Info, Memory)> {
        let info = Info { size: SIZE as u64, read_only: false, description: Some("a disk".into()) };
        (name == "disk").then(|| (info, self.clone()))
    }
}

/// Encodes numbers of these widths as they are on the wire.
fn wire(numbers: &[(u64, usize)]) -> Vec<u8> {
    numbers.iter().flat_map(|(number, width)| number.to_be_bytes()[8 - width..].to_vec()).collect()
}

fn option(kind: u64, data: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &wire(&[(kind, 4), (data.len() as u64, 4)])[..], data].concat()
}

fn request(flags: u64, command: u64, offset: u64, len: u64) -> Vec<u8> {
    wire(&[(0x2560_9513, 4), (flags, 2), (command, 2), (7, 8), (offset, 8), (len, 4)])
}

/// Messages of well-behaved clients.
pub(crate) fn server_corpus() -> Vec<Vec<u8>> {
    let name = b"\0\0\0\x04disk";
    let contexts =
        [&name[..], b"\0\0\0\x02\0\0\0\x0fbase:allocation\0\0\0\x15qemu:allocation-depth"].concat();
    let requests = [
        request(0, 0, 100, 70_000),
        [request(1, 1, 5000, 3000), vec![0; 3000]].concat(),
        request(0, 7, 0, SIZE as u64),
        request(2, 6, 4096, 65_536),
        request(0, 4, 70_000, 4096),
        request(0, 5, 0, 8192),
        request(0, 3, 0, 0),
        request(4, 0, 0, 100_000),
        request(0, 2, 0, 0),
    ]
    .concat();
    let flags = b"\0\0\0\x03".to_vec();
    let oldest = [flags.clone(), option(1, b"disk"), requests.clone()].concat();
    let modern = [
        flags.clone(),
        option(3, &[]),
        option(8, &[]),
        option(9, &contexts),
        option(10, &contexts),
        option(6, b"\0\0\0\x04disk\0\x02\0\x03\0\x01"),
        option(7, b"\0\0\0\x04disk\0\x01\0\x03"),
        requests,
    ]
    .concat();
    vec![oldest, modern, [flags, option(5, &[]), option(2, &[])].concat()]
}

fn answer(to: u64, kind: u64, data: &[u8]) -> Vec<u8> {
    [&wire(&[(0x0003_e889_0455_65a9, 8), (to, 4), (kind, 4), (data.len() as u64, 4)])[..], data].concat()
}

fn chunk(flags: u64, kind: u64, cookie: u64, data: &[u8]) -> Vec<u8> {
    let head = [(0x668e_33ef, 4), (flags, 2), (kind, 2), (cookie, 8), (data.len() as u64, 4)];
    [&wire(&head)[..], data].concat()
}

/// Messages of well-behaved servers.
pub(crate) fn client_corpus() -> Vec<Vec<u8>> {
    let greeting = b"NBDMAGICIHAVEOPT\0\x03".to_vec();
    let export = wire(&[(0, 2), (1 << 20, 8), (0x16d, 2)]);
    let blocks = wire(&[(3, 2), (512, 4), (4096, 4), (1 << 25, 4)]);
    let modern = [
        greeting.clone(),
        answer(8, 1, &[]),
        answer(10, 4, b"\0\0\0\x05base:allocation"),
        answer(10, 1, &[]),
        answer(7, 3, &export),
        answer(7, 3, &blocks),
        answer(7, 1, &[]),
        chunk(0, 1, 0, &[wire(&[(8192, 8)]), vec![9; 4096]].concat()),
        chunk(1, 2, 0, &wire(&[(4096, 8), (4096, 4)])),
        chunk(1, 0, 1, &[]),
        chunk(1, 5, 2, &wire(&[(5, 4), (4096, 4), (3, 4), (1 << 20, 4), (0, 4)])),
        chunk(1, 0x8001, 3, b"\0\0\0\x1c\0\x04full"),
        chunk(1, 0, 4, &[]),
    ]
    .concat();
    let simple = |cookie, data: &[u8]| [&wire(&[(0x6744_6698, 4), (0, 4), (cookie, 8)])[..], data].concat();
    let plain = [
        greeting,
        answer(8, (1 << 31) + 1, &[]),
        answer(7, (1 << 31) + 1, &[]),
        wire(&[(1 << 20, 8), (0x4d, 2)]),
        simple(0, &[7; 8192]),
        simple(1, &[]),
        simple(2, &[]),
        simple(3, &[]),
    ]
    .concat();
    vec![modern, plain]
}
