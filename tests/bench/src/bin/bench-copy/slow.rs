//! An NBD server in memory that takes its time for flushes: nbdkit, behind a relay that holds them back.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::Failure;
use harness::servers::Server;

/// The first bytes of a request, and of an option before that.
const REQUEST: [u8; 4] = 0x2560_9513_u32.to_be_bytes();
const WRITE: u16 = 1;
const FLUSH: u16 = 3;

/// The server, and the relay's socket. It serves one connection after the other.
pub struct Slow {
    pub socket: PathBuf,
    _server: Server,
}

impl Slow {
    /// Starts a server with a disk of `size` bytes, whose flushes take `time` longer.
    pub fn start(folder: &Path, size: u64, time: Duration) -> Result<Self, Failure> {
        let (inner, socket) = (folder.join("memory"), folder.join("slow"));
        for path in [&inner, &socket] {
            if path.exists() {
                std::fs::remove_file(path)?;
            }
        }
        let server = Server::nbdkit(&inner, &["memory", &size.to_string()])?;
        let listener = UnixListener::bind(&socket)?;
        std::thread::spawn(move || -> io::Result<()> {
            for client in listener.incoming() {
                let (client, server) = (client?, UnixStream::connect(&inner)?);
                let (mut replies, mut back) = (server.try_clone()?, client.try_clone()?);
                std::thread::spawn(move || io::copy(&mut replies, &mut back));
                std::thread::spawn(move || forward(client, server, time));
            }
            Ok(())
        });
        Ok(Slow { socket, _server: server })
    }
}

/// Relays from a client to the server, and holds back flushes.
fn forward(mut client: UnixStream, server: UnixStream, time: Duration) -> io::Result<()> {
    let hang_up = server.try_clone()?;
    let server = Arc::new(Mutex::new(server));
    let send = |bytes: &[u8]| match server.lock() {
        Ok(mut server) => server.write_all(bytes),
        Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
    };
    let mut relay = || -> io::Result<()> {
        let mut flags = [0; 4];
        client.read_exact(&mut flags)?;
        send(&flags)?;
        loop {
            let mut head = vec![0; 16];
            client.read_exact(&mut head)?;
            let is_request = head.starts_with(&REQUEST);
            if is_request {
                head.resize(28, 0);
                client.read_exact(&mut head[16..])?;
            }
            let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
            let command = u16::from_be_bytes([head[6], head[7]]);
            let data = match is_request {
                true if command == WRITE => number(24),
                true => 0,
                // An option: magic, number, length of its data.
                false => number(12),
            };
            if is_request && command == FLUSH {
                let server = server.clone();
                std::thread::spawn(move || {
                    std::thread::sleep(time);
                    if let Ok(mut server) = server.lock() {
                        // Fails if the connection has ended, and then nobody waits.
                        let _ = server.write_all(&head);
                    }
                });
                continue;
            }
            let from = head.len();
            head.resize(from + data as usize, 0);
            client.read_exact(&mut head[from..])?;
            send(&head)?;
        }
    };
    let ended = relay();
    hang_up.shutdown(std::net::Shutdown::Both)?;
    ended
}
