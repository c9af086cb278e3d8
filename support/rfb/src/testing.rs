//! A server with a screen of the test's on a thread of its own, and a client that sees every byte.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use des::Des;
use des::cipher::{Block, BlockCipherEncrypt, KeyInit};
use executor::Handle;
use executor::Thread;
use link::Credentials;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use socket2::{Domain, Socket, Type};

use crate::pixel::Format;
use crate::{Config, Event, Input, Lamps, Lines, Pointer, Screen, Server, Size};

/// Long enough for any step on a busy host; met only by a test that fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The state of the screen, and what came in.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) size: Size,
    pub(crate) pixels: Vec<u32>,
    pub(crate) dirty: Vec<u16>,
    /// The number of times that the server looked for changes.
    pub(crate) looks: u64,
    pub(crate) keys: Vec<(u16, bool)>,
    pub(crate) pointers: Vec<Pointer>,
    pub(crate) lamps: Option<Lamps>,
}

#[derive(Clone)]
pub(crate) struct Fake(Arc<Mutex<State>>);

impl Fake {
    pub(crate) fn new(width: u16, height: u16) -> Self {
        let fake = Fake(Arc::default());
        fake.resize(width, height);
        fake
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Makes every pixel another one.
    pub(crate) fn resize(&self, width: u16, height: u16) {
        let mut state = self.state();
        state.size = Size { width, height };
        state.dirty = (0..height).collect();
        state.pixels =
            (0..u32::from(width) * u32::from(height)).map(|n| n.wrapping_mul(0x9e37_79b1) >> 8).collect();
    }

    pub(crate) fn set(&self, x: u16, y: u16, pixel: u32) {
        let mut state = self.state();
        let at = usize::from(y) * usize::from(state.size.width) + usize::from(x);
        state.pixels[at] = pixel;
        state.dirty.push(y);
    }
}

impl Screen for Fake {
    fn size(&self) -> Size {
        self.state().size
    }

    fn take_dirty_lines(&self, lines: &mut Lines) {
        let mut state = self.state();
        state.looks += 1;
        std::mem::take(&mut state.dirty).into_iter().for_each(|line| lines.insert(line));
    }

    fn read_line(&self, line: u16, pixels: &mut [u32]) {
        let state = self.state();
        let start = usize::from(line) * usize::from(state.size.width);
        pixels.copy_from_slice(&state.pixels[start..][..pixels.len()]);
    }
}

impl Input for Fake {
    fn key(&self, code: u16, down: bool) {
        self.state().keys.push((code, down));
    }

    fn pointer(&self, pointer: Pointer) {
        self.state().pointers.push(pointer);
    }

    fn lamps(&self) -> Option<Lamps> {
        self.state().lamps
    }
}

/// Where a test's server listens.
pub(crate) enum Place {
    Unix(std::path::PathBuf),
    Tcp(SocketAddr),
}

/// A running server.
pub(crate) struct Rig {
    pub(crate) events: Receiver<Event>,
    pub(crate) handle: Handle<Server>,
    pub(crate) place: Place,
    thread: Thread,
    _folder: tempfile::TempDir,
}

impl Rig {
    /// A server on a Unix socket.
    pub(crate) fn new(fake: Fake, config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vnc");
        let listener = UnixListener::bind(&path).unwrap();
        Self::with(fake, config, listener, Place::Unix(path), folder)
    }

    /// A server on a port of the loopback network.
    pub(crate) fn tcp(fake: Fake, config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = Place::Tcp(listener.local_addr().unwrap());
        Self::with(fake, config, listener, place, tempfile::tempdir().unwrap())
    }

    fn with(
        fake: Fake,
        config: Config,
        listener: impl Into<OwnedFd>,
        place: Place,
        folder: tempfile::TempDir,
    ) -> Self {
        // rustix looks for the kernel's clocks at the first use of one, by a call that only tests need.
        let _ = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let thread = Thread::start("vnc", std::future::pending).unwrap();
        let (sender, events) = channel();
        let (listener, screen) = (listener.into(), fake.clone());
        let server = thread.remote().call(move || async move {
            // The thread makes only the calls that it may make in the program; another one ends the process.
            sandbox::confine(sandbox::Role::Screen, sandbox::Mode::Strict);
            let (screen, input) = (Rc::new(screen.clone()), Rc::new(screen));
            let server =
                Server::start(listener, config, screen, input, move |event| drop(sender.send(event)));
            Handle::new(&server.unwrap())
        });
        let handle = server.wait().unwrap();
        Rig { events, handle, place, thread, _folder: folder }
    }

    pub(crate) fn event(&self) -> Event {
        self.events.recv_timeout(PATIENCE).expect("an event")
    }

    /// Runs something with the server on its thread.
    pub(crate) fn on<T: Send + 'static>(&self, work: impl FnOnce(&Server) -> T + Send + 'static) -> T {
        self.handle.submit(|server| async move { work(&server) }).wait().unwrap()
    }

    /// The time that the server's thread spent on a processor.
    pub(crate) fn processor_time(&self) -> Duration {
        let time = self.thread.remote().call(|| async {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
        });
        time.wait().unwrap()
    }

    pub(crate) fn connect(&self) -> Client {
        self.connect_from("127.0.0.1")
    }

    /// Connects from another address of the loopback network, if the server listens there.
    pub(crate) fn connect_from(&self, address: &str) -> Client {
        let stream: Box<dyn Stream> = match &self.place {
            Place::Unix(path) => {
                let stream = UnixStream::connect(path).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                Box::new(stream)
            }
            Place::Tcp(to) => {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                let from = SocketAddr::new(address.parse().unwrap(), 0);
                socket.bind(&from.into()).unwrap();
                socket.connect(&(*to).into()).unwrap();
                let stream = TcpStream::from(socket);
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                Box::new(stream)
            }
        };
        Client { stream, size: Size::default() }
    }

    /// Connects without a login.
    pub(crate) fn session(&self) -> Client {
        let mut client = self.connect();
        client.version("RFB 003.008\n");
        client.expect(&[1, 1]);
        client.send(&[1]);
        client.expect(&[0; 4]);
        client.init();
        client
    }
}

/// A server's credentials for TLS, and the authority that clients trust for them.
pub(crate) fn credentials(verify_peer: bool) -> (Credentials, RootCertStore) {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &authority);
    let folder = tempfile::tempdir().unwrap();
    let files = [
        ("ca-cert.pem", authority.pem()),
        ("server-cert.pem", certificate.unwrap().pem()),
        ("server-key.pem", key.serialize_pem()),
    ];
    files.iter().for_each(|(name, pem)| std::fs::write(folder.path().join(name), pem).unwrap());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    (Credentials::load(folder.path(), verify_peer).unwrap(), roots)
}

pub(crate) trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

pub(crate) struct Client {
    stream: Box<dyn Stream>,
    pub(crate) size: Size,
}

/// A rectangle of an update: x, y, width, height, encoding.
pub(crate) type Head = (u16, u16, u16, u16, i32);

impl Client {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub(crate) fn expect(&mut self, bytes: &[u8]) {
        assert_eq!(self.bytes(bytes.len()), bytes);
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.bytes(2).try_into().unwrap())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes(4).try_into().unwrap())
    }

    /// Asserts that the server hangs up, after nothing more than `rest`.
    pub(crate) fn end(&mut self, rest: &[u8]) {
        let mut bytes = Vec::new();
        // A reset is an end too: the server did not read everything.
        if let Err(e) = self.stream.read_to_end(&mut bytes) {
            assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset);
        }
        assert_eq!(bytes, rest);
    }

    pub(crate) fn version(&mut self, version: &str) {
        self.expect(b"RFB 003.008\n");
        self.send(version.as_bytes());
    }

    /// Receives a challenge and sends the answer for a password.
    pub(crate) fn answer(&mut self, password: &str) {
        let mut challenge = self.bytes(16);
        let mut key = [0; 8];
        key[..password.len()].copy_from_slice(password.as_bytes());
        let cipher = Des::new(&key.map(u8::reverse_bits).into());
        for half in challenge.chunks_exact_mut(8) {
            let mut block = Block::<Des>::default();
            block.copy_from_slice(half);
            cipher.encrypt_block(&mut block);
            half.copy_from_slice(&block);
        }
        self.send(&challenge);
    }

    /// Logs in with a password, by 3.8. Returns the reason why that failed, if it did.
    pub(crate) fn log_in(&mut self, password: &str) -> Option<String> {
        self.version("RFB 003.008\n");
        self.expect(&[1, 2]);
        self.send(&[2]);
        self.answer(password);
        if self.u32() == 0 {
            return None;
        }
        let len = self.u32() as usize;
        let reason = String::from_utf8(self.bytes(len)).unwrap();
        self.end(&[]);
        Some(reason)
    }

    /// Logs in with TLS and without a password (VeNCrypt 0.2, X509None).
    pub(crate) fn log_in_by_tls(mut self, roots: RootCertStore) -> Self {
        self.version("RFB 003.008\n");
        self.expect(&[1, 19]);
        self.send(&[19]);
        self.expect(&[0, 2]);
        self.send(&[0, 2]);
        self.expect(&[0, 1, 0, 0, 1, 4]);
        self.send(&[0, 0, 1, 4]);
        self.expect(&[1]);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
        let tls = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
        let mut client = Client { stream: Box::new(StreamOwned::new(tls, self.stream)), size: self.size };
        client.expect(&[0; 4]);
        client
    }

    /// Runs the initialization. Returns the name.
    pub(crate) fn init(&mut self) -> String {
        self.send(&[0]);
        self.size = Size { width: self.u16(), height: self.u16() };
        self.expect(&Format::OURS.to_bytes());
        let len = self.u32() as usize;
        String::from_utf8(self.bytes(len)).unwrap()
    }

    pub(crate) fn request(&mut self, incremental: bool) {
        let Size { width, height } = self.size;
        let [w, h] = [width, height].map(u16::to_be_bytes);
        self.send(&[&[3, incremental.into(), 0, 0, 0, 0][..], &w, &h].concat());
    }

    pub(crate) fn encodings(&mut self, encodings: &[i32]) {
        self.send(&[2, 0]);
        self.send(&(encodings.len() as u16).to_be_bytes());
        encodings.iter().for_each(|encoding| self.send(&encoding.to_be_bytes()));
    }

    /// Receives the head of an update. Returns the number of its rectangles.
    pub(crate) fn update(&mut self) -> u16 {
        self.expect(&[0, 0]);
        self.u16()
    }

    pub(crate) fn head(&mut self) -> Head {
        (self.u16(), self.u16(), self.u16(), self.u16(), self.u32() as i32)
    }

    /// Receives an update in raw encoding and our own pixel format, and draws it into `picture`. Returns its
    /// rectangles.
    pub(crate) fn draw(&mut self, picture: &mut [u32]) -> Vec<Head> {
        let rects = self.update();
        self.rects(rects, picture)
    }

    /// The same, after the head of the update.
    pub(crate) fn rects(&mut self, rects: u16, picture: &mut [u32]) -> Vec<Head> {
        let stride = usize::from(self.size.width);
        (0..rects)
            .map(|_| {
                let head @ (x, y, width, height, encoding) = self.head();
                assert_eq!(encoding, 0);
                for line in 0..usize::from(height) {
                    let bytes = self.bytes(4 * usize::from(width));
                    let start = (usize::from(y) + line) * stride + usize::from(x);
                    for (to, pixel) in picture[start..].iter_mut().zip(bytes.chunks(4)) {
                        *to = u32::from_le_bytes(pixel.try_into().unwrap());
                    }
                }
                head
            })
            .collect()
    }

    /// Returns the whole screen.
    pub(crate) fn picture(&mut self) -> Vec<u32> {
        let mut picture = vec![0; usize::from(self.size.width) * usize::from(self.size.height)];
        self.request(false);
        self.draw(&mut picture);
        picture
    }
}
