//! A disk: the interface that guests, exports and the monitor use.
//!
//! Every request passes the gate and holds a [`Ticket`] until its response has been delivered; the disk
//! is drained when no ticket is left. Everything here but [`DiskHandle`] stays on the disk's thread.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use executor::sync::{Event, Semaphore};
use executor::{Handle, Remote};

use crate::chain::Opener;
use crate::copy_on_read::BOUNCE;
use crate::job::{self, Job, JobEvent, JobKind};
use crate::node::Node;
use crate::stats::{Op, Stats};
use crate::step::Stage;
use crate::stream::watch::Watch;
use crate::tray::{self, Tray};
use crate::{Buf, Error, ErrorKind, Result};

/// QEMU's error text for a command that would write to a read-only disk.
pub(crate) const READ_ONLY: &str = "Block node is read-only";

/// An event that a disk sends to its listener.
#[derive(Clone, Debug)]
pub enum DiskEvent {
    /// A background stream ended; its result is on stable storage.
    StreamCompleted {
        /// The disk's name.
        device: String,
        /// Its size in bytes.
        len: u64,
        /// Offset that the stream reached, in bytes.
        offset: u64,
        /// The error that ended it; `None` if it completed.
        error: Option<String>,
    },
    /// An event of a job.
    Job {
        /// Information about the job at that time.
        job: job::Info,
        /// The event.
        what: JobEvent,
    },
}

/// Limit on the bytes that the requests inside a disk's gate move together: once they reach it, further
/// requests wait outside. So a drain never waits for more than this and one [`PIECE`], however many
/// clients there are.
pub const MOST_INSIDE: u64 = 64 << 20;

/// The largest number of bytes that one ticket should carry. A longer request is split into pieces of
/// this length, each with its own ticket.
pub const PIECE: u64 = 16 << 20;

/// Returns the length of the first piece of `len` bytes at `offset`: all of them if they are at most
/// `most`, else those up to the next multiple of `most`. All are in bytes, and `most` must not be 0.
pub fn first_piece(offset: u64, len: u64, most: u64) -> u64 {
    if len <= most { len } else { most - offset % most }
}

/// The gate that requests pass, and the count of those inside.
#[derive(Default)]
struct Gate {
    closed: Cell<bool>,
    inside: Cell<u64>,
    /// Bytes that the requests inside move together.
    carried: Cell<u64>,
    changed: Event,
}

/// A request in flight. Must be dropped only when the response has been delivered: until then the disk
/// is not drained.
pub struct Ticket {
    disk: Rc<Disk>,
    carried: u64,
}

impl Ticket {
    /// Records that the request moves `bytes` bytes: of data, or of a range that is zeroed or discarded,
    /// which may amount to writing zeros. Must be called before anything else is awaited, since this
    /// number decides whether other requests wait outside.
    pub fn carry(&mut self, bytes: u64) {
        let gate = &self.disk.gate;
        let before = gate.carried.get();
        let after = before.saturating_sub(self.carried).saturating_add(bytes);
        gate.carried.set(after);
        self.carried = bytes;
        if before >= MOST_INSIDE && after < MOST_INSIDE {
            gate.changed.notify();
        }
    }

    /// Returns another ticket, for work that outlives the request with this one. The gate may be closed
    /// by now, but the request is inside already.
    pub(crate) fn again(&self) -> Ticket {
        let inside = &self.disk.gate.inside;
        inside.set(inside.get() + 1);
        Ticket { disk: self.disk.clone(), carried: 0 }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let gate = &self.disk.gate;
        gate.inside.set(gate.inside.get() - 1);
        let before = gate.carried.get();
        let after = before.saturating_sub(self.carried);
        gate.carried.set(after);
        let has_room = before >= MOST_INSIDE && after < MOST_INSIDE;
        if has_room || (gate.inside.get() == 0 && gate.closed.get()) {
            gate.changed.notify();
        }
    }
}

/// The gate, closed; opens when dropped.
pub(crate) struct Closed {
    disk: Rc<Disk>,
}

impl Drop for Closed {
    fn drop(&mut self) {
        self.disk.gate.closed.set(false);
        self.disk.gate.changed.notify();
    }
}

/// Exclusive use of the disk by one job, switch or resize. Released on drop.
pub(crate) struct Claim {
    disk: Rc<Disk>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.disk.claimed.set(None);
        self.disk.unclaimed.notify();
    }
}

/// A former leaf. Guests' flushes include it until it is `flushed`; then it is closed, and turned into a
/// backing file.
struct Old {
    node: Rc<Node>,
    flushed: Cell<bool>,
}

type Listener = Box<dyn Fn(DiskEvent)>;
type CapacityListener = Box<dyn Fn(u64)>;

/// A named device over a chain of images.
///
/// A request whose future is dropped half way still runs to its end by itself: it keeps its buffer, its
/// locks and its ticket until then, so a drain awaits it. As with any other request in flight, its order
/// with requests that overlap it is undefined.
pub struct Disk {
    name: String,
    leaf: RefCell<Rc<Node>>,
    read_only: bool,
    pub(crate) opener: Rc<dyn Opener>,
    gate: Gate,
    /// Former leaves that are not backing files yet.
    old: RefCell<Vec<Rc<Old>>>,
    claimed: Cell<Option<&'static str>>,
    /// Notified when a claim is released.
    unclaimed: Event,
    pub(crate) jobs: RefCell<Vec<Rc<Job>>>,
    /// Offset at which `block_stream` of a single cluster continues, in bytes.
    pub(crate) cursor: Cell<u64>,
    pub(crate) copy_on_read: Cell<bool>,
    /// True if space that is not needed any more is freed (`discard=unmap`).
    unmaps: Cell<bool>,
    /// Memory for the copies of copy-on-read, in bytes.
    pub(crate) bounce: Rc<Semaphore>,
    /// Observes the guest's reads for a stream.
    pub(crate) watch: RefCell<Option<Rc<Watch>>>,
    /// True once [`Disk::close`] has begun.
    closing: Cell<bool>,
    closed: Cell<bool>,
    has_closed: Event,
    pub(crate) stats: Stats,
    /// Steps of switches of several disks, by their numbers; see [`crate::step`].
    pub(crate) steps: RefCell<BTreeMap<u64, Stage>>,
    pub(crate) tray: Option<Tray>,
    listener: Listener,
    capacity: RefCell<Vec<CapacityListener>>,
}

impl Disk {
    /// Creates a disk named `name` over the chain of `leaf`. `listener` is called for each event.
    pub fn new(
        name: &str,
        leaf: Rc<Node>,
        read_only: bool,
        opener: Rc<dyn Opener>,
        listener: impl Fn(DiskEvent) + 'static,
    ) -> Rc<Self> {
        Rc::new(Self::with_tray(name, leaf, read_only, opener, listener, None))
    }

    /// Creates a removable drive with a read-only medium, or an empty one.
    pub async fn removable(
        name: &str,
        medium: Option<Rc<Node>>,
        opener: Rc<dyn Opener>,
        listener: impl Fn(DiskEvent) + 'static,
    ) -> Result<Rc<Self>> {
        let leaf = match medium {
            Some(leaf) => leaf,
            None => tray::no_medium().await?,
        };
        let tray = Some(Tray::default());
        Ok(Rc::new(Self::with_tray(name, leaf, true, opener, listener, tray)))
    }

    fn with_tray(
        name: &str,
        leaf: Rc<Node>,
        read_only: bool,
        opener: Rc<dyn Opener>,
        listener: impl Fn(DiskEvent) + 'static,
        tray: Option<Tray>,
    ) -> Self {
        Disk {
            name: name.to_owned(),
            read_only: read_only || !leaf.is_writable(),
            leaf: RefCell::new(leaf),
            opener,
            gate: Gate::default(),
            old: RefCell::default(),
            claimed: Cell::new(None),
            unclaimed: Event::new(),
            jobs: RefCell::default(),
            cursor: Cell::new(0),
            copy_on_read: Cell::new(false),
            unmaps: Cell::new(true),
            bounce: Semaphore::new(BOUNCE),
            watch: RefCell::default(),
            closing: Cell::new(false),
            closed: Cell::new(false),
            has_closed: Event::new(),
            stats: Stats::default(),
            steps: RefCell::default(),
            tray,
            listener: Box::new(listener),
            capacity: RefCell::default(),
        }
    }

    /// Returns the name by which the monitor knows the disk.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the disk's size in bytes.
    pub fn size(&self) -> u64 {
        self.leaf().size()
    }

    /// Returns the largest number of bytes that should be zeroed or discarded with one ticket: a [`PIECE`],
    /// or one cluster of the leaf if that is larger, because a part of a cluster is not discarded.
    pub fn zero_piece(&self) -> u64 {
        PIECE.max(self.leaf().cluster_size())
    }

    /// Returns true if writes are refused.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Returns the leaf.
    pub fn leaf(&self) -> Rc<Node> {
        self.leaf.borrow().clone()
    }

    /// Returns a snapshot of the disk's counters.
    pub fn stats(&self) -> Stats {
        let stats = self.stats.clone();
        stats.waits.add(&self.leaf().waits);
        stats
    }

    /// Calls `notify` with the size in bytes whenever the guest should be notified of it.
    pub fn on_capacity(&self, notify: impl Fn(u64) + 'static) {
        self.capacity.borrow_mut().push(Box::new(notify));
    }

    /// Returns true if a request is in flight, or ended less than `recent` ago.
    pub(crate) fn is_busy(&self, recent: Duration) -> bool {
        self.gate.inside.get() > 0 || self.stats.idle().is_some_and(|idle| idle < recent)
    }

    pub(crate) fn announce_capacity(&self) {
        for notify in &*self.capacity.borrow() {
            notify(self.size());
        }
    }

    pub(crate) fn emit(&self, event: DiskEvent) {
        (self.listener)(event);
    }

    /// Passes the gate if it is open and the requests inside move less than [`MOST_INSIDE`] bytes. The
    /// caller must report by [`Ticket::carry`] how many bytes its request moves.
    pub fn try_enter(self: &Rc<Self>) -> Option<Ticket> {
        if self.gate.closed.get() || self.gate.carried.get() >= MOST_INSIDE {
            return None;
        }
        self.gate.inside.set(self.gate.inside.get() + 1);
        Some(Ticket { disk: self.clone(), carried: 0 })
    }

    /// Waits until [`Disk::try_enter`] succeeds.
    pub async fn enter(self: &Rc<Self>) -> Ticket {
        loop {
            match self.try_enter() {
                Some(ticket) => return ticket,
                None => self.gate.changed.wait().await,
            }
        }
    }

    /// Closes the gate and waits until the disk is drained. Returns `None` if that takes longer than
    /// `deadline`; then the gate is open again and no request has failed.
    pub(crate) async fn drain(self: &Rc<Self>, deadline: Duration) -> Option<Closed> {
        self.gate.closed.set(true);
        let closed = Closed { disk: self.clone() };
        let empty = async {
            while self.gate.inside.get() > 0 {
                self.gate.changed.wait().await;
            }
        };
        executor::timeout(deadline, empty).await.map(|()| closed)
    }

    /// Returns the kind of the job that has claimed the disk, if there is one.
    pub fn busy_with(&self) -> Option<JobKind> {
        self.active_job().map(|job| job.info().kind)
    }

    /// Checks that no job has claimed the disk. `node` is the name that the caller used for the disk.
    ///
    /// # Errors
    /// `InUse`, with QEMU's text, if a job has claimed it.
    pub(crate) fn check_no_job(&self, node: &str) -> Result<()> {
        let Some(kind) = self.busy_with() else { return Ok(()) };
        let text = format!("Node '{node}' is busy: block device is in use by block job: {}", kind.name());
        Err(Error::new(ErrorKind::InUse, text))
    }

    /// Claims the disk for `what`.
    ///
    /// # Errors
    /// `InUse` if it is claimed already (the text names the claim, or is QEMU's if a job has it) or is
    /// being closed.
    pub(crate) fn claim(self: &Rc<Self>, what: &'static str) -> Result<Claim> {
        self.check_open()?;
        if let Some(other) = self.claimed.get() {
            self.check_no_job(self.name())?;
            let text = format!("Device '{}' is in use: {other} is active", self.name);
            return Err(Error::new(ErrorKind::InUse, text));
        }
        self.claimed.set(Some(what));
        Ok(Claim { disk: self.clone() })
    }

    /// Fails with `InUse` if the disk is being closed.
    pub(crate) fn check_open(&self) -> Result<()> {
        if !self.closing.get() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InUse, format!("Device '{}' is being closed", self.name)))
    }

    fn check_range(&self, op: Op, offset: u64, len: u64) -> Result<()> {
        if offset.checked_add(len).is_some_and(|end| end <= self.size()) {
            return Ok(());
        }
        self.stats.refused(op);
        let text = format!("{}: {len} bytes at {offset} lie outside of the disk", self.name);
        Err(Error::new(ErrorKind::OutOfRange, text))
    }

    fn check_write(&self, op: Op, offset: u64, len: u64) -> Result<()> {
        if self.read_only {
            self.stats.refused(op);
            return Err(Error::new(ErrorKind::ReadOnly, format!("{}: the disk is read-only", self.name)));
        }
        self.check_range(op, offset, len)
    }

    /// Runs a request's work to its end and counts it. The work gets its own ticket, since it may
    /// outlive the caller's.
    async fn request<W>(&self, ticket: &Ticket, op: Op, len: u64, work: W) -> Result<()>
    where
        W: AsyncFnOnce(&Ticket) -> Result<()> + 'static,
    {
        debug_assert!(std::ptr::eq(self, &*ticket.disk), "a ticket of another disk");
        let inside = ticket.again();
        let counted = async move {
            let start = executor::now();
            let result = work(&inside).await;
            inside.disk.stats.ended(op, len, start, &result);
            result
        };
        executor::to_the_end(counted).await
    }

    /// Fills `buf` from the disk at `offset`.
    pub async fn read(&self, ticket: &Ticket, offset: u64, buf: Buf) -> Result<()> {
        let len = buf.len() as u64;
        self.check_range(Op::Read, offset, len)?;
        if let Some(watch) = &*self.watch.borrow() {
            watch.saw(offset..offset + len);
        }
        let leaf = self.leaf();
        if self.copy_on_read.get() && !self.read_only {
            let work = async move |ticket: &Ticket| ticket.disk.read_copying(ticket, leaf, offset, buf).await;
            return self.request(ticket, Op::Read, len, work).await;
        }
        self.request(ticket, Op::Read, len, async move |_: &Ticket| leaf.read(offset, buf).await).await
    }

    /// Writes all of `buf` to the disk at `offset`.
    pub async fn write(&self, ticket: &Ticket, offset: u64, buf: Buf) -> Result<()> {
        let len = buf.len() as u64;
        self.check_write(Op::Write, offset, len)?;
        let leaf = self.leaf();
        self.stats.writes_to(offset + len);
        self.request(ticket, Op::Write, len, async move |_: &Ticket| leaf.write(offset, buf).await).await
    }

    /// Makes a range read as zeros. Without `unmap` the image keeps the range's space if it can, so that
    /// later writes need none.
    pub async fn write_zeroes(&self, ticket: &Ticket, offset: u64, len: u64, unmap: bool) -> Result<()> {
        self.check_write(Op::Write, offset, len)?;
        let (leaf, unmap) = (self.leaf(), unmap && self.unmaps.get());
        self.stats.writes_to(offset + len);
        let work = async move |_: &Ticket| leaf.write_zeroes(offset, len, unmap).await;
        self.request(ticket, Op::Write, len, work).await
    }

    /// Sets whether the space of discarded ranges, and of ranges zeroed with `unmap`, is freed or kept.
    pub fn set_unmap(&self, on: bool) {
        self.unmaps.set(on);
    }

    /// Discards a range, whose content is not needed any more.
    pub async fn discard(&self, ticket: &Ticket, offset: u64, len: u64) -> Result<()> {
        self.check_write(Op::Discard, offset, len)?;
        let leaf = self.unmaps.get().then(|| self.leaf());
        let work = async move |_: &Ticket| match leaf {
            Some(leaf) => leaf.discard(offset, len).await,
            None => Ok(()),
        };
        self.request(ticket, Op::Discard, len, work).await
    }

    /// Makes the effects of all requests that completed before this call durable.
    pub async fn flush(&self, ticket: &Ticket) -> Result<()> {
        let work = async |ticket: &Ticket| {
            let disk = &ticket.disk;
            if disk.read_only {
                return Ok(());
            }
            disk.flush_old().await?;
            let leaf = disk.leaf();
            leaf.flush().await
        };
        self.request(ticket, Op::Flush, 0, work).await
    }

    /// Flushes former leaves. They are not written any more, so once is enough. Tries all of them, then
    /// returns the first error.
    pub(crate) async fn flush_old(&self) -> Result<()> {
        let all: Vec<_> = self.old.borrow().iter().filter(|old| !old.flushed.get()).cloned().collect();
        let mut outcome = Ok(());
        for old in all {
            match old.node.flush().await {
                Ok(()) => old.flushed.set(true),
                Err(e) => outcome = outcome.and(Err(e)),
            }
        }
        outcome
    }

    /// Finishes former leaves: flushes and closes them, and turns them into backing files. Tries all of
    /// them, then returns the first error; the next call tries those that failed again. The caller must
    /// hold the disk's claim.
    pub(crate) async fn end_old(&self) -> Result<()> {
        let mut outcome = self.flush_old().await;
        let flushed: Vec<_> = self.old.borrow().iter().filter(|old| old.flushed.get()).cloned().collect();
        for old in flushed {
            match old.node.close().await {
                Ok(()) => {
                    old.node.demote();
                    self.old.borrow_mut().retain(|other| !Rc::ptr_eq(other, &old));
                }
                Err(e) => outcome = outcome.and(Err(e)),
            }
        }
        outcome
    }

    /// Makes `node`, which is not written any more, a former leaf: guests' flushes include it, and
    /// [`Disk::end_old`] finishes it.
    pub(crate) fn retire(&self, node: &Rc<Node>) {
        self.keep_old(node, false);
    }

    /// Like [`Disk::retire`], for a node without data that a guest has written: only [`Disk::end_old`]
    /// flushes it, so guests' flushes do not fail for it.
    pub(crate) fn retire_flushed(&self, node: &Rc<Node>) {
        self.keep_old(node, true);
    }

    fn keep_old(&self, node: &Rc<Node>, flushed: bool) {
        if node.is_writable() {
            self.old.borrow_mut().push(Rc::new(Old { node: node.clone(), flushed: Cell::new(flushed) }));
        }
    }

    /// Replaces the leaf, and makes the old one, which it returns, a former leaf. The disk must be drained.
    pub(crate) fn swap(&self, leaf: Rc<Node>) -> Rc<Node> {
        let old = self.leaf.replace(leaf);
        self.stats.waits.add(&old.waits);
        old.waits.take();
        self.retire(&old);
        self.cursor.set(0);
        old
    }

    /// Closes the disk: aborts its job, waits until nobody claims the disk, drains it and makes
    /// everything durable. New claims are refused from the start.
    pub async fn close(self: &Rc<Self>) -> Result<()> {
        self.closing.set(true);
        while self.claimed.get().is_some() {
            // Abandons switches that wait for those of other disks.
            drop(self.steps.take());
            // Repeating this does no harm: the job ends, with or without a result.
            if let Some(job) = self.active_job() {
                job.abort();
            }
            if self.claimed.get().is_some() {
                self.unclaimed.wait().await;
            }
        }
        let _closed = self.drain(Duration::MAX).await;
        let old = self.end_old().await;
        let leaf = self.leaf();
        let closed = leaf.close().await.and(old);
        for node in std::iter::successors(Some(leaf), |node| node.backing()) {
            node.end_use();
        }
        self.closed.set(true);
        self.has_closed.notify();
        closed
    }

    /// Waits until [`Disk::close`] has ended. The task that keeps a disk alive waits here.
    pub async fn closed(&self) {
        while !self.closed.get() {
            self.has_closed.wait().await;
        }
    }
}

thread_local! {
    /// The disks of this thread, by the IDs in their handles.
    static DISKS: RefCell<BTreeMap<u64, Weak<Disk>>> = const { RefCell::new(BTreeMap::new()) };
}

/// A handle for using a disk from other threads.
#[derive(Clone)]
pub struct DiskHandle {
    remote: Remote,
    id: u64,
}

impl Disk {
    /// Returns a handle for other threads.
    pub fn handle(self: &Rc<Self>) -> DiskHandle {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        DISKS.with_borrow_mut(|disks| {
            disks.retain(|_, disk| disk.strong_count() > 0);
            disks.insert(id, Rc::downgrade(self));
        });
        DiskHandle { remote: executor::remote(), id }
    }
}

impl Handle for DiskHandle {
    type Target = Disk;

    fn remote(&self) -> &Remote {
        &self.remote
    }

    fn get(&self) -> Option<Rc<Disk>> {
        DISKS.with_borrow(|disks| disks.get(&self.id).and_then(Weak::upgrade))
    }
}

impl DiskHandle {
    /// Calls `make` with the disk on the disk's thread, and awaits the returned future there.
    ///
    /// # Errors
    /// Errors of the future; `NotFound` if the disk is gone.
    pub async fn call<T: Send + 'static, F: Future<Output = Result<T>> + 'static>(
        &self,
        make: impl FnOnce(Rc<Disk>) -> F + Send + 'static,
    ) -> Result<T> {
        let gone = || Error::new(ErrorKind::NotFound, "the disk is gone");
        let handle = self.clone();
        let reply = self.remote.call(move || {
            let future = handle.get().map(make);
            async move {
                match future {
                    Some(future) => future.await,
                    None => Err(gone()),
                }
            }
        });
        reply.await.unwrap_or_else(|_| Err(gone()))
    }
}
