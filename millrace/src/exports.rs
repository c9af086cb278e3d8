//! The NBD server: exports disks to clients outside the guest.
//!
//! The main loop accepts a connection and runs its handshake. Then the connection's descriptor goes to the
//! thread of the disk that the client chose, and all its data flow there. Here stay a clone of the
//! connection, to hang up with, and a task that waits for the end of its transmission.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use executor::sync::{Event, Permit, Semaphore};
use executor::{AsyncFd, JoinHandle};
use nbd::{Connection, Credentials, Info, Session};
use qmp::command::NbdServerStart;
use qmp::event::BlockExportDeleted;
use qmp::types::{BlockExportInfo, BlockExportRemoveMode, BlockExportType, SocketAddressLegacy};
use qmp::{Address, Error, Events, Listener, Result};

use super::drive::Drive;
use disk::DiskExport;

mod disk;

/// Time limit for a client to choose an export: QEMU's since 9.1 (CVE-2024-7409).
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time limit for a client to choose an export if others wait for its slot. A client that means to choose
/// one does so at once.
const GRACE: Duration = Duration::from_secs(2);
/// The default maximum number of clients at once: QEMU's since 9.1.
const MAX_CONNECTIONS: u32 = 100;
/// Time that a command waits for requests that clients left behind. After that they end by themselves.
const END: Duration = Duration::from_secs(3);
/// The pause after a failed accept: the host is out of descriptors, and retrying at once would spin.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The state of the NBD server, which the monitor's commands control.
pub(super) struct Exports {
    events: Events,
    server: RefCell<Option<Rc<Server>>>,
    /// TLS credentials, by the ids of `--tls-creds`.
    credentials: RefCell<BTreeMap<String, Credentials>>,
}

/// The options of an export.
pub(super) struct ExportOptions {
    pub id: String,
    pub name: String,
    pub description: Option<String>,
    pub writable: bool,
    /// True if each write is flushed before the reply to it.
    pub writethrough: bool,
}

struct Export {
    options: ExportOptions,
    drive: Rc<Drive>,
    /// True if no client gets it any more.
    ending: Cell<bool>,
}

struct Client {
    connection: Connection,
    /// The client's host; `None` for a Unix socket.
    from: Option<IpAddr>,
    /// The time at which it was accepted, by the executor's clock.
    since: Duration,
    /// True if it was disconnected to make room for another one.
    goes: Cell<bool>,
    /// The export that it chose, once it has chosen.
    export: Option<Rc<Export>>,
}

/// The server, from one `nbd-server-start` to its stop.
struct Server {
    events: Events,
    /// The exports, the oldest first.
    exports: RefCell<Vec<Rc<Export>>>,
    clients: RefCell<BTreeMap<u64, Client>>,
    /// Notified when a client is gone.
    gone: Event,
    accepting: RefCell<Option<JoinHandle<()>>>,
    tls: Option<Credentials>,
    /// Time limit for a client to choose an export; `None` for no limit.
    handshake: Option<Duration>,
}

fn not_running() -> Error {
    Error::generic("NBD server not running")
}

fn address(addr: SocketAddressLegacy) -> Address {
    match addr {
        SocketAddressLegacy::Unix(unix) => Address::Unix(unix.path.into()),
        SocketAddressLegacy::Inet(inet) => {
            let host = match inet.host {
                host if host.is_empty() => "0.0.0.0".into(),
                host if host.contains(':') => format!("[{host}]"),
                host => host,
            };
            Address::Tcp(format!("{host}:{}", inet.port))
        }
    }
}

impl Exports {
    pub(super) fn new(events: Events) -> Self {
        Exports { events, server: RefCell::default(), credentials: RefCell::default() }
    }

    /// Adds TLS credentials that `nbd-server-start` can name.
    pub(super) fn add_credentials(&self, credentials: BTreeMap<String, Credentials>) {
        self.credentials.borrow_mut().extend(credentials);
    }

    fn server(&self) -> Result<Rc<Server>> {
        self.server.borrow().clone().ok_or_else(not_running)
    }

    /// Runs `nbd-server-start`.
    pub(super) async fn start(&self, arguments: NbdServerStart) -> Result<()> {
        let running = || Err(Error::generic("NBD server already running"));
        if self.server.borrow().is_some() {
            return running();
        }
        let tls = match arguments.tls_creds {
            None => None,
            Some(id) => Some(
                self.credentials
                    .borrow()
                    .get(&id)
                    .cloned()
                    .ok_or_else(|| Error::generic(format!("No TLS credentials with id '{id}'")))?,
            ),
        };
        let address = address(arguments.addr);
        let bound = match address {
            // Like an image, the socket must lie below a folder of `--allow-dir`.
            Address::Unix(_) => executor::unconfined(move || Listener::bind(&address)).await,
            // A host's name may take long to look up.
            Address::Tcp(_) => executor::unblock(move || Listener::bind(&address)).await,
        };
        let listener = bound.map_err(|e| Error::generic(e.to_string()))?;
        if self.server.borrow().is_some() {
            return running();
        }
        let listener = AsyncFd::new(listener).map_err(|e| Error::generic(format!("NBD socket: {e}")))?;
        let server = Rc::new(Server {
            events: self.events.clone(),
            exports: RefCell::default(),
            clients: RefCell::default(),
            gone: Event::new(),
            accepting: RefCell::default(),
            tls,
            handshake: match arguments.handshake_max_seconds {
                None => Some(HANDSHAKE),
                Some(0) => None,
                Some(seconds) => Some(Duration::from_secs(seconds.into())),
            },
        });
        let slots = match arguments.max_connections.unwrap_or(MAX_CONNECTIONS) {
            0 => u64::MAX,
            some => some.into(),
        };
        let accepting = executor::spawn(server.clone().accept(listener, Semaphore::new(slots)));
        *server.accepting.borrow_mut() = Some(accepting);
        *self.server.borrow_mut() = Some(server);
        Ok(())
    }

    /// Runs `nbd-server-add` and `block-export-add`.
    pub(super) fn add(&self, drive: &Rc<Drive>, options: ExportOptions) -> Result<()> {
        if !qmp::id::is_well_formed(&options.id) {
            return Err(Error::generic("Invalid block export id"));
        }
        let server = self.server();
        let exports = server.as_ref().map(|server| server.exports.borrow().clone()).unwrap_or_default();
        if exports.iter().any(|export| export.options.id == options.id) {
            return Err(Error::generic(format!("Block export id '{}' is already in use", options.id)));
        }
        if options.writable && drive.options.read_only {
            return Err(Error::generic("Cannot export read-only node as writable"));
        }
        let server = server?;
        for (what, text) in
            [("export name", Some(&options.name)), ("description", options.description.as_ref())]
        {
            if let Some(text) = text {
                nbd::check_string(text)
                    .map_err(|e| Error::generic(format!("{what} '{}' {e}", text.escape_debug())))?;
            }
        }
        if exports.iter().any(|export| export.options.name == options.name) {
            let text = format!("NBD server already has export named '{}'", options.name);
            return Err(Error::generic(text));
        }
        let export = Export { options, drive: drive.clone(), ending: Cell::new(false) };
        server.exports.borrow_mut().push(Rc::new(export));
        Ok(())
    }

    /// Runs `nbd-server-remove` and `block-export-del`.
    pub(super) async fn remove(&self, id: &str, mode: Option<BlockExportRemoveMode>) -> Result<()> {
        let found = self.server.borrow().clone().and_then(|server| {
            let export = server.exports.borrow().iter().find(|export| export.options.id == id).cloned();
            export.map(|export| (server, export))
        });
        let (server, export) = found.ok_or_else(|| Error::generic(format!("Export '{id}' is not found")))?;
        if export.ending.get() {
            return Err(Error::generic(format!("Export '{id}' has already been shut down")));
        }
        if mode != Some(BlockExportRemoveMode::Hard) && server.has_clients(&export) {
            return Err(Error::generic(format!("export '{id}' still in use")));
        }
        server.end(vec![export]).await;
        Ok(())
    }

    /// Runs `nbd-server-stop`.
    pub(super) async fn stop(&self) -> Result<()> {
        let server = self.server.take().ok_or_else(not_running)?;
        if let Some(accepting) = server.accepting.take() {
            accepting.cancel();
        }
        let mut exports = server.exports.borrow().clone();
        exports.reverse();
        // This includes clients that have not chosen an export yet.
        for client in server.clients.borrow().values() {
            client.connection.hang_up();
        }
        server.end(exports).await;
        Ok(())
    }

    /// Returns the result of `query-block-exports`.
    pub(super) fn list(&self) -> Vec<BlockExportInfo> {
        let Ok(server) = self.server() else { return Vec::new() };
        let describe = |export: &Rc<Export>| BlockExportInfo {
            id: export.options.id.clone(),
            kind: BlockExportType::Nbd,
            node_name: export.drive.options.id.clone(),
            shutting_down: export.ending.get(),
        };
        server.exports.borrow().iter().rev().map(describe).collect()
    }
}

impl Server {
    fn has_clients(&self, export: &Rc<Export>) -> bool {
        let has = |client: &Client| client.export.as_ref().is_some_and(|its| Rc::ptr_eq(its, export));
        self.clients.borrow().values().any(has)
    }

    /// Disconnects the clients of some exports, and sends an event for each export when its last client is
    /// gone. Returns when all are gone, or after [`END`].
    async fn end(self: &Rc<Self>, exports: Vec<Rc<Export>>) {
        for export in &exports {
            export.ending.set(true);
            for client in self.clients.borrow().values() {
                if client.export.as_ref().is_some_and(|its| Rc::ptr_eq(its, export)) {
                    client.connection.hang_up();
                }
            }
        }
        let server = self.clone();
        let ending = executor::spawn(async move {
            for export in exports {
                while server.has_clients(&export) {
                    server.gone.wait().await;
                }
                server.exports.borrow_mut().retain(|other| !Rc::ptr_eq(other, &export));
                server.events.emit(&BlockExportDeleted { id: export.options.id.clone() });
            }
        });
        if executor::timeout(END, ending).await.is_none() {
            executor::limited!(
                warn,
                "NBD: requests of clients that were disconnected take longer than {END:?}"
            );
        }
    }

    async fn accept(self: Rc<Self>, listener: AsyncFd<Listener>, slots: Rc<Semaphore>) {
        for number in 0.. {
            let accepted = listener.read_io(Listener::accept).await;
            let connected = accepted.and_then(|socket| {
                let from = socket.peer_addr().ok().and_then(|peer| peer.as_socket()).map(|peer| peer.ip());
                Connection::new(socket).map(|connection| (connection, from))
            });
            match connected {
                Ok((connection, from)) => {
                    // The client is not turned away: it waits here, and those behind it are not accepted
                    // yet.
                    let slot = self.slot(&slots).await;
                    let (since, goes) = (executor::now(), Cell::new(false));
                    let client = Client { connection: connection.clone(), from, since, goes, export: None };
                    self.clients.borrow_mut().insert(number, client);
                    executor::spawn(self.clone().client(number, connection, slot));
                    executor::yield_now().await;
                }
                Err(e) => {
                    executor::limited!(warn, "accepting an NBD client: {e}");
                    executor::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    /// Waits for a slot. While none is free, clients that have not chosen an export within [`GRACE`] are
    /// disconnected, so that nobody can keep others out by merely connecting.
    async fn slot(&self, slots: &Rc<Semaphore>) -> Permit {
        loop {
            if let Some(slot) = slots.try_acquire(1) {
                return slot;
            }
            let gone = self.gone.wait();
            match self.time_until_one_goes() {
                Some(time) => _ = executor::timeout(time, gone).await,
                None => gone.await,
            }
        }
    }

    /// Disconnects one client whose [`GRACE`] is over, if there is one: the oldest in its handshake, of the
    /// host that has most of them. Returns the time after which to look again, or `None` if only the end of
    /// a client changes anything.
    fn time_until_one_goes(&self) -> Option<Duration> {
        let clients = self.clients.borrow();
        let undecided = || clients.values().filter(|client| client.export.is_none() && !client.goes.get());
        let mut of_host = BTreeMap::new();
        undecided().for_each(|client| *of_host.entry(client.from).or_insert(0) += 1);
        // Of equals, max_by_key returns the last, which here is the oldest: numbers rise with time.
        let oldest = undecided().rev().max_by_key(|client| of_host[&client.from])?;
        let left = (oldest.since + GRACE).saturating_sub(executor::now());
        if left.is_zero() {
            oldest.goes.set(true);
            oldest.connection.hang_up();
            return Some(GRACE);
        }
        Some(left)
    }

    async fn client(self: Rc<Self>, number: u64, connection: Connection, slot: Permit) {
        let limit = self.handshake.unwrap_or(Duration::MAX);
        match executor::timeout(limit, nbd::handshake(&connection, &*self, self.tls.as_ref())).await {
            Some(Ok(Some((session, export)))) => self.transmit(number, connection, session, export).await,
            Some(Ok(None)) => {}
            Some(Err(e)) => executor::limited!(info, "NBD handshake: {e}"),
            None => executor::limited!(info, "an NBD client did not choose an export within {limit:?}"),
        }
        self.clients.borrow_mut().remove(&number);
        self.gone.notify();
        drop(slot);
    }

    async fn transmit(&self, number: u64, connection: Connection, session: Session, export: Rc<Export>) {
        // The export may have been removed while the reply was being sent.
        if export.ending.get() {
            return;
        }
        if let Some(client) = self.clients.borrow_mut().get_mut(&number) {
            client.export = Some(export.clone());
        }
        let writethrough = export.options.writethrough;
        let served = export.drive.handle.submit(move |disk| async move {
            let export = DiskExport { disk, writethrough };
            if let Err(e) = nbd::serve(&connection, session, export).await {
                executor::limited!(info, "NBD client: {e}");
            }
        });
        if let Err(e) = served.await {
            executor::limited!(warn, "NBD export '{}': {e}", export.options.name);
        }
    }
}

impl nbd::Exports for Server {
    type Found = Rc<Export>;

    fn names(&self) -> Vec<String> {
        self.exports.borrow().iter().map(|export| export.options.name.clone()).collect()
    }

    async fn find(&self, name: &str) -> Option<(Info, Rc<Export>)> {
        let is_it = |export: &&Rc<Export>| export.options.name == name && !export.ending.get();
        let export = self.exports.borrow().iter().find(is_it).cloned()?;
        let size = export.drive.handle.submit(|disk| async move { disk.size() }).await.ok()?;
        let description = export.options.description.clone();
        Some((Info { size, read_only: !export.options.writable, description }, export))
    }
}
