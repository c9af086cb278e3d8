//! A monitor over a fake machine, on a thread of its own, and a raw connection to it.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use executor::sync::Event as Signal;
use qmp::types::*;
use qmp::{Address, Client, Error, ErrorClass, Events, Listener, Monitor, command, event};
use serde_json::{Value, json};

/// Long enough for a machine under load; only a failing test waits for it.
pub const PATIENCE: Duration = Duration::from_secs(60);

struct Fake {
    events: Events,
    release: Signal,
    resumed: Cell<u64>,
    quit: Rc<(Cell<bool>, Signal)>,
}

impl command::DiskCommands for Fake {
    /// Sends `size` events of some 200 bytes.
    async fn block_resize(&self, arguments: command::BlockResize) -> qmp::Result<Empty> {
        for _ in 0..arguments.size {
            self.events.emit(&event::BlockExportDeleted { id: "x".repeat(100) });
        }
        Ok(Empty {})
    }
}

impl command::TrayCommands for Fake {}

impl command::SnapshotCommands for Fake {}

impl command::JobCommands for Fake {
    async fn block_stream(&self, arguments: command::BlockStream) -> qmp::Result<BlockStreamReply> {
        match arguments {
            command::BlockStream { device, .. } if device != "virtio0" => {
                Err(Error::device_not_found(&device))
            }
            command::BlockStream { stop: Some(true), .. } => {
                Err(Error::new(ErrorClass::DeviceNotActive, "no stream is active on 'virtio0'"))
            }
            command::BlockStream { all: Some(true), .. } => Ok(BlockStreamReply::Background(Empty {})),
            command::BlockStream { device, .. } => Ok(BlockStreamReply::Cluster(BlockStreamInfo {
                device,
                len: 1 << 30,
                offset: 65536,
                absent: None,
            })),
        }
    }

    async fn query_block_stream(&self, _: command::QueryBlockStream) -> qmp::Result<Vec<BlockStreamInfo>> {
        Ok(vec![BlockStreamInfo { device: "virtio0".into(), len: 1 << 30, offset: 65536, absent: None }])
    }
}

impl command::NodeCommands for Fake {}

impl command::CopyCommands for Fake {}
impl command::WatchCommands for Fake {}

impl command::ExportCommands for Fake {}

impl command::ScreenCommands for Fake {}

impl command::MachineCommands for Fake {
    async fn query_status(&self, _: command::QueryStatus) -> qmp::Result<StatusInfo> {
        Ok(StatusInfo { running: true, status: RunState::Running })
    }

    /// Returns the number of `cont` that have ended.
    async fn query_name(&self, _: command::QueryName) -> qmp::Result<NameInfo> {
        Ok(NameInfo { name: Some(self.resumed.get().to_string()) })
    }

    async fn stop(&self, _: command::Stop) -> qmp::Result<Empty> {
        self.events.emit(&event::Stopped {});
        Ok(Empty {})
    }

    /// Sends an event when it begins, and waits for `system_powerdown`.
    async fn cont(&self, _: command::Cont) -> qmp::Result<Empty> {
        self.events.emit(&event::Resumed {});
        self.release.wait().await;
        self.resumed.set(self.resumed.get() + 1);
        Ok(Empty {})
    }

    async fn system_powerdown(&self, _: command::SystemPowerdown) -> qmp::Result<Empty> {
        self.release.notify();
        Ok(Empty {})
    }

    async fn quit(&self, _: command::Quit) -> qmp::Result<Empty> {
        self.events.emit(&event::Shutdown { guest: false, reason: ShutdownCause::HostQmpQuit });
        self.quit.0.set(true);
        self.quit.1.notify();
        Ok(Empty {})
    }
}

/// A monitor that runs until `quit`.
pub struct Server {
    thread: Option<executor::Thread>,
    pub path: PathBuf,
    pub tcp: Address,
    _directory: tempfile::TempDir,
}

impl Server {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp.sock");
        let unix = Listener::bind(&Address::Unix(path.clone())).unwrap();
        let tcp = Listener::bind(&"tcp:127.0.0.1:0".parse().unwrap()).unwrap();
        let address = tcp.address().unwrap();
        let thread = executor::Thread::start("monitor", move || async move {
            let (events, quit) = (Events::new(), Rc::default());
            let fake = Fake {
                events: events.clone(),
                release: Signal::new(),
                resumed: Cell::new(0),
                quit: Rc::clone(&quit),
            };
            let monitor = Monitor::new(Rc::new(fake), events);
            monitor.listen(unix).unwrap();
            monitor.listen(tcp).unwrap();
            while !quit.0.get() {
                quit.1.wait().await;
            }
            monitor.shutdown(PATIENCE).await;
        })
        .unwrap();
        Server { thread: Some(thread), path, tcp: address, _directory: directory }
    }

    /// A connection that has read the greeting.
    pub fn connect(&self) -> Wire {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut wire = Wire { reader: BufReader::new(stream.try_clone().unwrap()), stream };
        let greeting = wire.receive();
        assert_eq!(greeting["QMP"]["capabilities"], json!([]));
        assert_eq!(greeting["QMP"]["version"]["qemu"], json!({"major": 10, "minor": 0, "micro": 0}));
        wire
    }

    /// A connection that has ended the negotiation.
    pub fn negotiated(&self) -> Wire {
        let mut wire = self.connect();
        assert_eq!(wire.ask(json!({"execute": "qmp_capabilities"})), json!({"return": {}}));
        wire
    }

    pub fn client(&self) -> Client {
        Client::connect(&Address::Unix(self.path.clone()), PATIENCE).unwrap()
    }

    /// Waits for the server's end.
    pub fn join(&mut self) {
        assert!(self.thread.take().unwrap().join());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Clients that the test left unread must not hold up the end: only the answer is awaited.
            if !std::thread::panicking() {
                let mut client = self.client();
                client.execute(&command::Quit {}).unwrap();
                drop(client);
                assert!(thread.join());
            }
        }
    }
}

/// A connection seen as bytes.
pub struct Wire {
    reader: BufReader<UnixStream>,
    pub stream: UnixStream,
}

impl Wire {
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// The next line, which must end as QEMU's do; `None` at the end of the stream.
    pub fn try_receive(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => return None,
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return None,
            other => other.unwrap(),
        };
        assert!(line.ends_with("\r\n"), "{line:?}");
        Some(serde_json::from_str(&line).unwrap())
    }

    pub fn receive(&mut self) -> Value {
        self.try_receive().expect("the server closed the connection")
    }

    pub fn ask(&mut self, message: Value) -> Value {
        self.send(message.to_string());
        self.receive()
    }

    /// Ends the sending side.
    pub fn end(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }
}
