//! A disk: the interface that guests, exports and the monitor use.
//!
//! Every request passes the gate and holds a `Ticket` until its response has been delivered; the disk
//! is drained when no ticket is left. Everything here but `DiskHandle` stays on the disk's thread.

mod claims;
pub mod clusters;
mod copy_on_read;
pub mod fake;
pub(crate) mod filter;
pub mod flight;
mod front;
mod gate;
mod handle;
pub mod job;
mod past;
mod resize;
pub mod stats;
pub mod step;
pub mod switch;
pub mod tray;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use executor::sync::{Event, Semaphore};
use tracing::Instrument;

use self::claims::Claims;
pub(crate) use self::claims::{Claim, Claimant, Needs};
use self::clusters::Clusters;
use self::copy_on_read::CopyOnRead;
use self::filter::{Below, Filters};
use self::flight::Flight;
pub use self::front::Front;
pub(crate) use self::gate::Closed;
use self::gate::Gate;
pub use self::gate::{MOST_INSIDE, PIECE, Ticket, first_piece};
pub use self::handle::DiskHandle;
use self::job::{Job, JobEvent};
use self::past::Old;
use self::stats::{Ended, Op, Stats};
use self::step::Stage;
use self::tray::Tray;
use crate::image;
use crate::image::node::Node;
use crate::storage::Opener;
use crate::storage::in_use::Use;
use crate::{Buf, Error, ErrorKind, Kind, Result};

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
    ending_old: Rc<Semaphore>,
    claims: Claims,
    pub(crate) jobs: RefCell<Vec<Rc<Job>>>,
    /// Offset at which `block_stream` of a single cluster continues, in bytes.
    pub(crate) cursor: Cell<u64>,
    filters: RefCell<Option<Filters>>,
    pub(crate) copy_on_read: RefCell<Option<Rc<CopyOnRead>>>,
    /// True if space that is not needed any more is freed (`discard=unmap`).
    unmaps: Cell<bool>,
    /// True once `Disk::close` has begun.
    closing: Cell<bool>,
    closed: Cell<bool>,
    has_closed: Event,
    pub(crate) stats: Stats,
    flight: Flight,
    clusters: Clusters,
    /// Steps of switches of several disks, by their numbers; see `crate::step`.
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
            ending_old: Semaphore::new(1),
            claims: Claims::default(),
            jobs: RefCell::default(),
            cursor: Cell::new(0),
            filters: RefCell::default(),
            copy_on_read: RefCell::default(),
            unmaps: Cell::new(true),
            closing: Cell::new(false),
            closed: Cell::new(false),
            has_closed: Event::new(),
            stats: Stats::default(),
            flight: Flight::default(),
            clusters: Clusters::default(),
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

    /// Returns the largest number of bytes that should be zeroed or discarded with one ticket: a `PIECE`,
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

    /// Reads the header of an image that the disk may use later, to write to it if `to_write`.
    ///
    /// # Errors
    /// As [`image::info`]; `Locked` if this program has the image open and it is to be written.
    pub async fn inspect(&self, name: &str, kind: Kind, to_write: bool) -> Result<image::Info> {
        if to_write {
            let storage = self.opener.open(name, false).await?;
            Use::refuse_any(&*storage)?;
        }
        image::info(&*self.opener, name, kind).await
    }

    /// Returns a snapshot of the disk's counters.
    pub fn stats(&self) -> Stats {
        let stats = self.stats.clone();
        stats.waits.add(&self.leaf().waits);
        stats
    }

    /// Returns latencies by intervals: the first `most` closed ones whose numbers are at least `since`.
    pub fn latencies(&self, since: u64, most: usize) -> flight::Latencies {
        self.flight.latencies(executor::now(), since, most)
    }

    /// Returns each request around the last switch; `None` if there was none. If that was just now, first
    /// waits until the record is complete, a little more than [`flight::AROUND`]; `None` if there was another
    /// switch meanwhile.
    pub async fn flight(&self) -> Option<flight::Frozen> {
        if let Some(complete) = self.flight.complete_at().filter(|at| executor::now() <= *at) {
            executor::sleep_until(complete + Duration::from_millis(1)).await;
        }
        self.flight.frozen(executor::now())
    }

    /// Calls `notify` with the size in bytes whenever the guest should be notified of it.
    pub fn on_capacity(&self, notify: impl Fn(u64) + 'static) {
        self.capacity.borrow_mut().push(Box::new(notify));
    }

    /// Returns true if a request is in flight, or ended less than `recent` ago.
    pub(crate) fn is_busy(&self, recent: Duration) -> bool {
        self.gate.is_busy() || self.stats.idle().is_some_and(|idle| idle < recent)
    }

    pub(crate) fn announce_capacity(&self) {
        for notify in &*self.capacity.borrow() {
            notify(self.size());
        }
    }

    pub(crate) fn emit(&self, event: DiskEvent) {
        (self.listener)(event);
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
    async fn request<W>(&self, ticket: &Ticket, op: Op, offset: u64, len: u64, work: W) -> Result<()>
    where
        W: AsyncFnOnce(&Ticket) -> Result<()> + 'static,
    {
        debug_assert!(std::ptr::eq(self, &*ticket.disk), "a ticket of another disk");
        let inside = ticket.again();
        let counted = async move {
            let start = executor::now();
            inside.disk.flight.begins();
            let result = work(&inside).await;
            let now = executor::now();
            let latency = now.saturating_sub(start);
            let ended = Ended { op, offset, len, failed: result.is_err(), latency };
            inside.disk.stats.ended(now, &ended);
            inside.disk.flight.ended(now, &ended);
            result
        };
        if !tracing::enabled!(tracing::Level::TRACE) {
            return executor::to_the_end(counted).await;
        }
        let span = tracing::trace_span!("request", disk = %self.name, ?op, offset, len);
        let traced = async move {
            tracing::trace!("begins");
            let result = counted.await;
            tracing::trace!(?result, "ends");
            result
        };
        executor::to_the_end(traced.instrument(span)).await
    }

    /// Fills `buf` from the disk at `offset`.
    pub async fn read(&self, ticket: &Ticket, offset: u64, buf: Buf) -> Result<()> {
        let len = buf.len() as u64;
        self.check_range(Op::Read, offset, len)?;
        let (leaf, filters) = self.way();
        let work = async move |ticket: &Ticket| match filters {
            None => leaf.read(offset, buf).await,
            filters => Below::of(ticket, &leaf, &filters).read(offset, buf).await,
        };
        self.request(ticket, Op::Read, offset, len, work).await
    }

    /// Writes all of `buf` to the disk at `offset`.
    pub async fn write(&self, ticket: &Ticket, offset: u64, buf: Buf) -> Result<()> {
        let len = buf.len() as u64;
        self.check_write(Op::Write, offset, len)?;
        let (leaf, filters) = self.way();
        self.stats.writes_to(offset + len);
        let work = async move |ticket: &Ticket| {
            let result = match filters {
                None => leaf.write(offset, buf).await,
                filters => Below::of(ticket, &leaf, &filters).write(offset, buf).await,
            };
            ticket.disk.clusters.written(&leaf, offset..offset + len);
            result
        };
        self.request(ticket, Op::Write, offset, len, work).await
    }

    /// Makes a range read as zeros. Without `unmap` the image keeps the range's space if it can, so that
    /// later writes need none.
    pub async fn write_zeroes(&self, ticket: &Ticket, offset: u64, len: u64, unmap: bool) -> Result<()> {
        self.check_write(Op::Write, offset, len)?;
        let ((leaf, filters), unmap) = (self.way(), unmap && self.unmaps.get());
        self.stats.writes_to(offset + len);
        let work = async move |ticket: &Ticket| {
            let result = Below::of(ticket, &leaf, &filters).write_zeroes(offset, len, unmap).await;
            ticket.disk.clusters.zeroed(&leaf, offset..offset + len);
            result
        };
        self.request(ticket, Op::Write, offset, len, work).await
    }

    /// Sets whether the space of discarded ranges, and of ranges zeroed with `unmap`, is freed or kept.
    pub fn set_unmap(&self, on: bool) {
        self.unmaps.set(on);
    }

    /// Discards a range, whose content is not needed any more.
    pub async fn discard(&self, ticket: &Ticket, offset: u64, len: u64) -> Result<()> {
        self.check_write(Op::Discard, offset, len)?;
        let way = self.unmaps.get().then(|| self.way());
        let work = async move |ticket: &Ticket| match way {
            Some((leaf, filters)) => {
                let result = Below::of(ticket, &leaf, &filters).discard(offset, len).await;
                ticket.disk.clusters.zeroed(&leaf, offset..offset + len);
                result
            }
            None => Ok(()),
        };
        self.request(ticket, Op::Discard, offset, len, work).await
    }

    /// Makes the effects of all requests that completed before this call durable.
    pub async fn flush(&self, ticket: &Ticket) -> Result<()> {
        let work = async |ticket: &Ticket| {
            let disk = &ticket.disk;
            if disk.read_only {
                return Ok(());
            }
            let (leaf, filters) = disk.way();
            Below::of(ticket, &leaf, &filters).flush().await
        };
        self.request(ticket, Op::Flush, 0, 0, work).await
    }

    /// The leaf, and the filters before it.
    fn way(&self) -> (Rc<Node>, Option<Filters>) {
        (self.leaf(), self.filters.borrow().clone())
    }

    /// Closes the disk: aborts its job, waits until nobody claims the disk, drains it and makes
    /// everything durable. New claims are refused from the start.
    pub async fn close(self: &Rc<Self>) -> Result<()> {
        self.closing.set(true);
        while !self.claims.is_empty() {
            // Abandons switches that wait for those of other disks.
            drop(self.steps.take());
            // Repeating this does no harm: the job ends, with or without a result.
            for job in self.active_jobs() {
                job.abort();
            }
            if !self.claims.is_empty() {
                self.claims.released().await;
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

    /// Waits until `Disk::close` has ended. The task that keeps a disk alive waits here.
    pub async fn closed(&self) {
        while !self.closed.get() {
            self.has_closed.wait().await;
        }
    }
}
