//! A server with a fake export on a thread of its own, and a client that sees every byte.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use buf::Buf;
use executor::Executor;
use executor::sync::Event;

use crate::proto::{self, Fields, option, rep};
use crate::{Connection, Disconnect, Errno, Error, Export, Exports, Extent, Info, Result};

/// Long enough for any step on a busy host; met only by a test that fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// A run of the fake is data or hole by the number of its page.
pub(crate) const PAGE: u64 = 64 << 10;

/// The content of the fake export, and a record of the requests to it.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) content: Vec<u8>,
    /// The error that every request to the export fails with, if any.
    pub(crate) fail: Option<Error>,
    /// Reads wait for the next flush.
    pub(crate) hold_reads: bool,
    pub(crate) flushes: u64,
    pub(crate) trims: Vec<(u64, u64)>,
    /// Ranges made zero; the flag is true if a hole was allowed.
    pub(crate) zeroes: Vec<(u64, u64, bool)>,
    pub(crate) inside: u64,
    pub(crate) most_inside: u64,
    pub(crate) ended: u64,
}

#[derive(Clone)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
    flushed: Rc<Event>,
}

/// Counts a request as inside of the export.
struct Inside(Arc<Mutex<State>>);

impl Drop for Inside {
    fn drop(&mut self) {
        let mut state = self.0.lock().unwrap();
        state.inside -= 1;
        state.ended += 1;
    }
}

impl Fake {
    fn enter(&self) -> Result<Inside> {
        let mut state = self.state.lock().unwrap();
        state.inside += 1;
        state.most_inside = state.most_inside.max(state.inside);
        let inside = Inside(self.state.clone());
        match state.fail.clone() {
            None => Ok(inside),
            Some(e) => {
                drop(state);
                Err(e)
            }
        }
    }
}

impl Export for Fake {
    fn size(&self) -> u64 {
        self.state.lock().unwrap().content.len() as u64
    }

    async fn read(&self, offset: u64, buf: Buf) -> Result<()> {
        let _inside = self.enter()?;
        if self.state.lock().unwrap().hold_reads {
            self.flushed.wait().await;
        }
        executor::yield_now().await;
        buf.copy_from(&self.state.lock().unwrap().content[offset as usize..][..buf.len()]);
        Ok(())
    }

    async fn write(&self, offset: u64, buf: Buf) -> Result<()> {
        let _inside = self.enter()?;
        executor::yield_now().await;
        buf.copy_to(&mut self.state.lock().unwrap().content[offset as usize..][..buf.len()]);
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        let _inside = self.enter()?;
        self.state.lock().unwrap().flushes += 1;
        self.flushed.notify();
        Ok(())
    }

    async fn trim(&self, offset: u64, len: u64) -> Result<()> {
        let _inside = self.enter()?;
        self.state.lock().unwrap().trims.push((offset, len));
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool) -> Result<()> {
        let _inside = self.enter()?;
        let mut state = self.state.lock().unwrap();
        state.content[offset as usize..][..len as usize].fill(0);
        state.zeroes.push((offset, len, may_unmap));
        Ok(())
    }

    async fn block_status(&self, offset: u64, len: u64) -> Result<Extent> {
        let _inside = self.enter()?;
        let page = (offset / PAGE * PAGE) as usize;
        let content = &self.state.lock().unwrap().content;
        let end = content.len().min(page + PAGE as usize);
        let data = content[page..end].iter().any(|byte| *byte != 0);
        // Pages in turn come from the leaf, from its backing file, and from nowhere.
        let depth = if data { 1 + (page as u64 / PAGE % 2) as u32 } else { 0 };
        Ok(Extent { len: len.min(end as u64 - offset), data, depth })
    }
}

struct FakeExports {
    fake: Fake,
    read_only: bool,
    asked: RefCell<Vec<String>>,
}

impl Exports for FakeExports {
    type Found = Fake;

    fn names(&self) -> Vec<String> {
        vec!["disk".into(), "größe".into()]
    }

    async fn find(&self, name: &str) -> Option<(Info, Fake)> {
        self.asked.borrow_mut().push(name.to_owned());
        let description = (name == "disk").then(|| "a fake".to_owned());
        let info = Info { size: self.fake.size(), read_only: self.read_only, description };
        self.names().iter().any(|known| known == name).then(|| (info, self.fake.clone()))
    }
}

/// The end of a server's session: true if it came to a transmission.
pub(crate) type Ended = std::result::Result<bool, Disconnect>;

/// A session: the client's end, and the server on its thread.
pub(crate) struct Session {
    pub(crate) client: UnixStream,
    state: Arc<Mutex<State>>,
    server: JoinHandle<Ended>,
}

/// A chunk of a structured reply.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Chunk {
    pub(crate) flags: u16,
    pub(crate) kind: u16,
    pub(crate) cookie: u64,
    pub(crate) payload: Vec<u8>,
}

/// A request as bytes.
pub(crate) fn request(flags: u16, command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = proto::REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

/// An option as bytes.
pub(crate) fn option(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = proto::OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(kind.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

/// A string behind its length.
pub(crate) fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

/// The data of `INFO` and `GO`.
pub(crate) fn info_data(name: &str, requests: &[u16]) -> Vec<u8> {
    let mut data = string(name);
    data.extend((requests.len() as u16).to_be_bytes());
    data.extend(requests.iter().flat_map(|request| request.to_be_bytes()));
    data
}

/// The data of the options on metadata contexts.
pub(crate) fn queries(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = string(name);
    data.extend((queries.len() as u32).to_be_bytes());
    data.extend(queries.iter().flat_map(|query| string(query)));
    data
}

impl Session {
    /// Starts a server of `size` bytes, of which each is its offset modulo 251.
    pub(crate) fn start(size: usize, read_only: bool) -> Self {
        let state = State { content: (0..size).map(|at| (at % 251) as u8).collect(), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let (client, socket) = UnixStream::pair().unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.set_write_timeout(Some(PATIENCE)).unwrap();
        let shared = state.clone();
        let server = std::thread::spawn(move || {
            Executor::new().unwrap().block_on(async move {
                let connection = Connection::new(socket)?;
                let fake = Fake { state: shared, flushed: Rc::default() };
                let exports = FakeExports { fake, read_only, asked: RefCell::default() };
                match crate::handshake(&connection, &exports, None).await? {
                    None => Ok(false),
                    Some((session, fake)) => crate::serve(&connection, session, fake).await.map(|()| true),
                }
            })
        });
        Session { client, state, server }
    }

    /// The same, and the handshake up to `GO` with structured replies and all contexts, or with neither.
    pub(crate) fn transmission(size: usize, read_only: bool, structured: bool) -> Self {
        let mut session = Self::start(size, read_only);
        session.greet(3);
        if structured {
            session.send(&option(option::STRUCTURED_REPLY, &[]));
            session.send(&option(option::SET_META_CONTEXT, &queries("disk", &proto::CONTEXTS)));
            for kind in [rep::ACK, rep::META_CONTEXT, rep::META_CONTEXT, rep::ACK] {
                assert_eq!(session.answer().1, kind);
            }
        }
        session.send(&option(option::GO, &info_data("disk", &[])));
        assert_eq!(session.answer().1, rep::INFO);
        assert_eq!(session.answer().1, rep::ACK);
        session
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Waits for a condition on the export.
    pub(crate) fn wait_for(&self, what: &str, condition: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(&self.state()) {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::yield_now();
        }
    }

    /// Waits until the server has read all that was sent.
    pub(crate) fn wait_read(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut left: libc::c_int = 0;
            // SAFETY: the request writes one integer to `left`.
            assert_eq!(unsafe { libc::ioctl(self.client.as_raw_fd(), libc::TIOCOUTQ, &mut left) }, 0);
            if left == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "the server reads");
            std::thread::yield_now();
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).unwrap();
    }

    pub(crate) fn receive<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.client.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub(crate) fn receive_vec(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.client.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Reads the server's greeting and sends our flags.
    pub(crate) fn greet(&mut self, flags: u32) {
        assert_eq!(&self.receive::<18>(), b"NBDMAGICIHAVEOPT\0\x03");
        self.send(&flags.to_be_bytes());
    }

    /// One answer to an option: the option, the type, the data.
    pub(crate) fn answer(&mut self) -> (u32, u32, Vec<u8>) {
        let head = self.receive::<20>();
        let mut fields = Fields(&head);
        assert_eq!(fields.u64(), Some(proto::OPTION_REPLY_MAGIC));
        let (option, kind, len) = (fields.u32().unwrap(), fields.u32().unwrap(), fields.u32().unwrap());
        (option, kind, self.receive_vec(len as usize))
    }

    /// A simple reply without its data: error and cookie.
    pub(crate) fn simple(&mut self) -> (u32, u64) {
        let head = self.receive::<16>();
        let mut fields = Fields(&head);
        assert_eq!(fields.u32(), Some(proto::SIMPLE_MAGIC));
        (fields.u32().unwrap(), fields.u64().unwrap())
    }

    pub(crate) fn chunk(&mut self) -> Chunk {
        let head = self.receive::<20>();
        let mut fields = Fields(&head);
        assert_eq!(fields.u32(), Some(proto::STRUCTURED_MAGIC));
        let (flags, kind) = (fields.u16().unwrap(), fields.u16().unwrap());
        let (cookie, len) = (fields.u64().unwrap(), fields.u32().unwrap());
        Chunk { flags, kind, cookie, payload: self.receive_vec(len as usize) }
    }

    /// Checks that the server hung up and sent no more.
    pub(crate) fn closed(&mut self) {
        let mut rest = Vec::new();
        match self.client.read_to_end(&mut rest) {
            Ok(_) => assert_eq!(rest, []),
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }

    /// Hangs up and returns the end of the server's session.
    pub(crate) fn end(self) -> Ended {
        drop(self.client);
        self.server.join().expect("the server does not panic")
    }
}

/// Returns true if the session ended because the client broke the protocol.
pub(crate) fn is_violation(ended: &Ended) -> bool {
    matches!(ended, Err(Disconnect::Protocol(_)))
}

/// Returns an error for the fake export to fail with.
pub(crate) fn failure() -> Error {
    Error::new(Errno::Io, "the disk is on fire")
}
