//! Names, and the effect of a lost connection on reads, writes and flushes, against a server of our own
//! whose connections the tests cut.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use executor::Executor;
use nbd::{Connection, Export, Exports, Info};

use super::*;
use crate::storage::{is_uri, outside};

const SIZE: usize = 1 << 20;

/// State that all connections of the server share.
#[derive(Default)]
struct Shared {
    content: Vec<u8>,
    connections: Vec<Connection>,
    flushes: u64,
    /// For each request to write zeros, true if it allowed unmapping.
    unmapped: Vec<bool>,
    /// Number of requests for a block status.
    asked: u64,
    /// Trimmed ranges: offset and length.
    trimmed: Vec<(u64, u64)>,
    /// The time that a flush takes.
    flush_takes: Duration,
    /// True to cut the connection after the next write is done and before its answer.
    cut_write: bool,
}

#[derive(Clone)]
struct Memory(Arc<Mutex<Shared>>);

impl Memory {
    fn with<T>(&self, look: impl FnOnce(&mut Shared) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    /// Cuts every connection.
    fn cut(&self) {
        self.with(|shared| shared.connections.drain(..).for_each(|connection| connection.hang_up()));
    }
}

impl Export for Memory {
    fn size(&self) -> u64 {
        SIZE as u64
    }

    async fn read(&self, offset: u64, buf: Buf) -> nbd::Result<()> {
        self.with(|shared| buf.copy_from(&shared.content[offset as usize..][..buf.len()]));
        Ok(())
    }

    async fn write(&self, offset: u64, buf: Buf) -> nbd::Result<()> {
        self.with(|shared| buf.copy_to(&mut shared.content[offset as usize..][..buf.len()]));
        if self.with(|shared| std::mem::take(&mut shared.cut_write)) {
            self.cut();
        }
        Ok(())
    }

    async fn flush(&self) -> nbd::Result<()> {
        let takes = self.with(|shared| shared.flush_takes);
        executor::sleep(takes).await;
        self.with(|shared| shared.flushes += 1);
        Ok(())
    }

    async fn trim(&self, offset: u64, len: u64) -> nbd::Result<()> {
        self.with(|shared| shared.trimmed.push((offset, len)));
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool) -> nbd::Result<()> {
        self.with(|shared| {
            shared.content[offset as usize..][..len as usize].fill(0);
            shared.unmapped.push(may_unmap);
        });
        Ok(())
    }

    async fn block_status(&self, offset: u64, len: u64) -> nbd::Result<nbd::Extent> {
        self.with(|shared| shared.asked += 1);
        let content = self.with(|shared| shared.content[offset as usize..][..len as usize].to_vec());
        let data = content[0] != 0;
        let run = content.iter().take_while(|byte| (**byte != 0) == data).count();
        Ok(nbd::Extent { len: run as u64, data, depth: 1 })
    }
}

impl Exports for Memory {
    type Found = Memory;

    fn names(&self) -> Vec<String> {
        vec!["disk".into()]
    }

    async fn find(&self, name: &str) -> Option<(Info, Memory)> {
        (name == "disk").then(|| (Info { size: SIZE as u64, ..Info::default() }, self.clone()))
    }
}

struct Server {
    memory: Memory,
    folder: tempfile::TempDir,
}

impl Server {
    fn new() -> Self {
        let memory = Memory(Arc::new(Mutex::new(Shared { content: vec![3; SIZE], ..Shared::default() })));
        let server = Server { memory, folder: tempfile::tempdir().unwrap() };
        server.listen();
        server
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn uri(&self, parameters: &str) -> String {
        format!("nbd+unix:///disk?socket={}{parameters}", self.socket().display())
    }

    /// Accepts until the socket's file is gone.
    fn listen(&self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let (memory, path) = (self.memory.clone(), self.socket());
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                if !path.exists() {
                    return;
                }
                let memory = memory.clone();
                std::thread::spawn(move || {
                    Executor::new().unwrap().block_on(async move {
                        let connection = Connection::new(socket).unwrap();
                        memory.with(|shared| shared.connections.push(connection.clone()));
                        if let Ok(Some((session, export))) = nbd::handshake(&connection, &memory, None).await
                        {
                            let _ = nbd::serve(&connection, session, export).await;
                        }
                    });
                });
            }
        });
    }

    /// Cuts all connections and accepts no more until it listens again.
    fn stop(&self) {
        std::fs::remove_file(self.socket()).unwrap();
        self.memory.cut();
    }
}

fn run(work: impl Future<Output = ()> + 'static) {
    Executor::new().unwrap().block_on(work);
}

#[test]
fn names_tell_exports_from_files() {
    for name in ["nbd://host/x", "nbd+unix:///?socket=/s"] {
        assert!(is_uri(name) && outside(name).unwrap().is_some(), "{name}");
    }
    for name in ["nbd:host:1", "/nbd://x", "nbds://host/x", "file://x", "disk"] {
        assert!(!is_uri(name) && outside(name).unwrap().is_none(), "{name}");
    }
    let same = outside("nbd://host/a").unwrap();
    assert_eq!(outside("nbd://host:10809/a?timeout=5&reconnect-delay=1").unwrap(), same);
    assert_ne!(outside("nbd://host/b").unwrap(), same);
    assert_ne!(outside("nbd://other/a").unwrap(), same);
    for wrong in ["timeout=0", "timeout=x", "reconnect-delay=-1", "reconnect-delay=86401", "other=1"] {
        let name = format!("nbd://host/a?{wrong}");
        assert!(Patience::of(&parse(&name).unwrap(), &name).is_err(), "{wrong}");
    }
}

#[test]
fn reading_and_writing_goes_on_after_a_cut() {
    let server = Server::new();
    let (uri, memory) = (server.uri(""), server.memory.clone());
    run(async move {
        let storage = NbdStorage::open(&uri, true).await.unwrap();
        assert_eq!(storage.len(), SIZE as u64);
        // Bytes past the end read as zeros.
        let buf = Buf::from_bytes(&[9; 20]);
        storage.read(SIZE as u64 - 10, buf.clone()).await.unwrap();
        assert_eq!(buf.to_vec(), [[3; 10], [0; 10]].concat());
        let outside = storage.write(SIZE as u64 - 10, buf.clone()).await.unwrap_err();
        assert_eq!(outside.kind(), ErrorKind::NoSpace);
        storage.punch(4096, 4096).await.unwrap();
        storage.zero(8192, 4096).await.unwrap();
        assert_eq!(memory.with(|shared| shared.unmapped.clone()), [true, false]);
        assert_eq!(storage.map(0, 1 << 19).await.unwrap(), Extent { len: 4096, data: true });
        assert_eq!(storage.map(4096, 1 << 19).await.unwrap(), Extent { len: 8192, data: false });
        for round in 0..3u8 {
            memory.cut();
            let reads = (0..40u64).map(|at| {
                let buf = Buf::new(512);
                let storage = &storage;
                async move {
                    storage.read(at * 512, buf.clone()).await.unwrap();
                    assert_eq!(buf.to_vec()[0], if (8..24).contains(&at) { 0 } else { 3 }, "{round}");
                }
            });
            futures_util::future::join_all(reads).await;
        }
    });
}

#[test]
fn answered_writes_that_were_not_flushed_are_lost_with_their_connection() {
    let server = Server::new();
    let (uri, memory) = (server.uri(""), server.memory.clone());
    run(async move {
        let storage = NbdStorage::open(&uri, true).await.unwrap();
        let write = async |byte: u8| storage.write(0, Buf::from_bytes(&[byte; 512])).await;
        let read = async || storage.read(0, Buf::new(512)).await;
        // With nothing to lose, nothing is lost.
        memory.cut();
        read().await.unwrap();
        storage.sync().await.unwrap();
        write(1).await.unwrap();
        storage.sync().await.unwrap();
        memory.cut();
        storage.sync().await.unwrap();
        // A write that was not answered is done again, and is not lost.
        memory.with(|shared| shared.cut_write = true);
        write(2).await.unwrap();
        storage.sync().await.unwrap();
        let flushes = memory.with(|shared| shared.flushes);
        assert_eq!(flushes, 2);
        // An answered write that was not flushed is lost.
        write(3).await.unwrap();
        memory.cut();
        read().await.unwrap();
        for _ in 0..2 {
            let error = storage.sync().await.unwrap_err();
            assert!(error.to_string().contains("not flushed"), "{error}");
        }
        write(4).await.unwrap();
        assert!(storage.sync().await.is_err());
        // Another storage, opened anew, can flush.
        let storage = NbdStorage::open(&uri, true).await.unwrap();
        storage.write(0, Buf::from_bytes(&[5; 512])).await.unwrap();
        storage.sync().await.unwrap();
    });
}

#[test]
fn requests_wait_for_a_server_then_fail_then_work_again() {
    let server = Server::new();
    let uri = server.uri("&reconnect-delay=1");
    run(async move {
        let storage = Rc::new(NbdStorage::open(&uri, false).await.unwrap());
        server.stop();
        let error = storage.read(0, Buf::new(512)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        // Past `reconnect-delay`, requests fail at once.
        assert!(storage.read(0, Buf::new(512)).await.is_err());
        server.listen();
        let mut tries = 0;
        while storage.read(0, Buf::new(512)).await.is_err() {
            tries += 1;
            assert!(tries < 600, "it works again");
            // Only a request shows that the server is back.
            executor::sleep(Duration::from_millis(100)).await;
        }
        // A request that may wait long enough does not fail.
        let patient = NbdStorage::open(&server.uri("&reconnect-delay=60"), false).await.unwrap();
        server.stop();
        let waiting = executor::spawn(async move { patient.read(0, Buf::new(512)).await });
        assert!(executor::timeout(Duration::from_millis(300), storage.read(0, Buf::new(1))).await.is_none());
        assert!(!waiting.is_finished());
        server.listen();
        waiting.await.unwrap().unwrap();
    });
}

#[test]
fn what_cannot_be_opened_says_why() {
    let server = Server::new();
    let folder = server.folder.path().display().to_string();
    let unknown = format!("nbd+unix:///other?socket={folder}/socket");
    let nobody = format!("nbd+unix:///disk?socket={folder}/nobody");
    run(async move {
        for (name, complaint) in [
            (unknown.as_str(), "no export 'other'"),
            (nobody.as_str(), "No such file"),
            ("nbd+unix:///disk", "socket=PATH is missing"),
            ("nbd://host:x/", "the port is not a number"),
        ] {
            let error = NbdStorage::open(name, false).await.err().unwrap().to_string();
            assert!(error.contains(name) && error.contains(complaint), "{error}");
        }
        drop(server);
    });
}

/// A server may need long for a flush of gigabytes; a read that takes as long counts as a silent server.
#[test]
fn a_slow_flush_is_no_lost_connection() {
    let server = Server::new();
    let (uri, memory) = (server.uri("&timeout=2"), server.memory.clone());
    memory.with(|shared| shared.flush_takes = Duration::from_secs(4));
    run(async move {
        let storage = NbdStorage::open(&uri, true).await.unwrap();
        storage.write(0, Buf::from_bytes(&[1; 512])).await.unwrap();
        storage.sync().await.unwrap();
        assert_eq!(storage.link.losses(), 0);
        drop(server);
    });
}

/// A discard is sent as a trim: a server that punches no holes would write zeros instead.
#[test]
fn a_discard_is_a_trim() {
    let server = Server::new();
    let (uri, memory) = (server.uri(""), server.memory.clone());
    run(async move {
        let storage = NbdStorage::open(&uri, true).await.unwrap();
        storage.unmap(4096, SIZE as u64 - 4096).await.unwrap();
        assert_eq!(memory.with(|shared| shared.trimmed.clone()), [(4096, SIZE as u64 - 4096)]);
        assert!(memory.with(|shared| shared.unmapped.is_empty() && shared.content == [3; SIZE]));
        assert!(storage.is_fixed());
        storage.truncate(100).await.unwrap();
        assert_eq!(storage.truncate(SIZE as u64 + 1).await.unwrap_err().kind(), ErrorKind::Unsupported);
        drop(server);
    });
}

/// A job maps an export from start to end, while a guest writes to it.
#[test]
fn a_map_of_a_writable_export_asks_once_for_all_of_its_runs() {
    const RUN: usize = 4096;
    let server = Server::new();
    let (uri, memory) = (server.uri(""), server.memory.clone());
    memory.with(|shared| shared.content.chunks_mut(RUN).step_by(2).for_each(|run| run.fill(0)));
    let runs = async |storage: &NbdStorage, written: u64| {
        let (mut at, mut runs) = (0, 0);
        while at < SIZE as u64 {
            if at < written {
                storage.write(at, Buf::from_bytes(&[9; 512])).await.unwrap();
            }
            at += storage.map(at, SIZE as u64 - at).await.unwrap().len;
            runs += 1;
        }
        runs
    };
    run(async move {
        // The server of these tests describes one run at a time to each of its requests.
        let read_only = NbdStorage::open(&uri, false).await.unwrap();
        assert_eq!(runs(&read_only, 0).await, SIZE / RUN);
        let asked = || memory.with(|shared| std::mem::take(&mut shared.asked));
        let once = asked();
        let storage = NbdStorage::open(&uri, true).await.unwrap();
        assert_eq!(runs(&storage, 0).await, SIZE / RUN);
        assert_eq!(asked(), once);
        // Writes are in the map at once, without a question.
        assert!(runs(&storage, SIZE as u64 / 2).await < SIZE / RUN);
        assert_eq!(storage.map(0, 512).await.unwrap(), Extent { len: 512, data: true });
        assert_eq!(asked(), 0);
        // After zeroing, the server is asked again.
        storage.punch(0, SIZE as u64).await.unwrap();
        assert_eq!(storage.map(0, u64::MAX).await.unwrap(), Extent { len: SIZE as u64, data: false });
        assert!(asked() > 0);
        drop(server);
    });
}
