//! The state of a simulated file that all its openings share: its bytes, those that survive a power cut,
//! and the operations of a kernel.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Faults, Nature, Sharing};
use crate::storage::{Extent, Identity};
use crate::{Buf, Error, ErrorKind, Result};

/// The unit that storage writes whole or not at all.
pub(super) const SECTOR: u64 = 512;

/// The largest file: all of it is in memory, holes included.
const LARGEST: u64 = 192 << 20;

/// One change that was acknowledged but not synced.
enum Change {
    Write { offset: u64, data: Vec<u8> },
    Length(u64),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Write { offset, data } => write!(f, "write {} bytes at {offset}", data.len()),
            Change::Length(len) => write!(f, "set the length to {len}"),
        }
    }
}

#[derive(Default)]
struct State {
    content: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
    /// The number of changes that have left `pending`, so that each change has a permanent number.
    synced: u64,
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { offset, data } => {
            let end = *offset as usize + data.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[*offset as usize..end].copy_from_slice(data);
        }
        Change::Length(len) => content.resize(*len as usize, 0),
    }
}

/// The power supply that files share: when it is cut, all of them stop.
#[derive(Default)]
pub(super) struct Power {
    cut: Cell<bool>,
    changes: Cell<u64>,
    cut_after: Cell<Option<u64>>,
}

impl Power {
    /// Cuts it at the `n`-th change from now.
    pub(super) fn cut_after(&self, n: u64) {
        self.cut_after.set(Some(self.changes.get() + n));
    }
}

/// The file itself.
pub(super) struct Medium {
    pub(super) name: String,
    pub(super) identity: Identity,
    pub(super) faults: Cell<Faults>,
    pub(super) nature: Cell<Nature>,
    state: RefCell<State>,
    failed: Cell<bool>,
    /// The number of times that its server was started again.
    pub(super) restarts: Cell<u64>,
    /// The time until which its server cannot be reached.
    pub(super) away_until: Cell<Duration>,
    /// The time at which the device has done the writes so far.
    busy_until: Cell<Duration>,
    power: Rc<Power>,
}

pub(super) fn chance(per_mille: u32) -> bool {
    per_mille > 0 && executor::random() % 1000 < u64::from(per_mille)
}

impl Medium {
    pub(super) fn new(name: &str, content: Vec<u8>, nature: Nature, power: Rc<Power>) -> Rc<Self> {
        // Not drawn from the seed: the files of different threads must differ.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let inode = NEXT.fetch_add(1, Ordering::Relaxed);
        Rc::new(Medium {
            name: name.to_owned(),
            identity: Identity { device: u64::MAX, inode },
            faults: Cell::default(),
            nature: Cell::new(nature),
            state: RefCell::new(State { durable: content.clone(), content, ..State::default() }),
            failed: Cell::default(),
            restarts: Cell::default(),
            away_until: Cell::default(),
            busy_until: Cell::default(),
            power,
        })
    }

    pub(super) fn content(&self) -> Vec<u8> {
        self.state.borrow().content.clone()
    }

    pub(super) fn len(&self) -> u64 {
        self.state.borrow().content.len() as u64
    }

    /// Changes the size of a device, as its volume manager would.
    pub(super) fn resize(&self, len: u64) {
        let mut state = self.state.borrow_mut();
        state.content.resize(len as usize, 0);
        state.durable.resize(len as usize, 0);
    }

    /// See [`super::SimFile::after_power_cut`].
    pub(super) fn after_power_cut(&self) -> Vec<u8> {
        let state = self.state.borrow();
        let mut content = state.durable.clone();
        // Few, about half, or nearly all survive: uniform coins would never lose just one sector.
        let odds = [1, 50, 99][(executor::random() % 3) as usize];
        for change in &state.pending {
            match change {
                Change::Write { offset, data } => {
                    let mut at = 0;
                    while at < data.len() {
                        let sector = *offset + at as u64;
                        let n = ((SECTOR - sector % SECTOR) as usize).min(data.len() - at);
                        if executor::random() % 100 < odds {
                            let data = data[at..at + n].to_vec();
                            apply(&mut content, &Change::Write { offset: sector, data });
                        }
                        at += n;
                    }
                }
                Change::Length(_) if executor::random() % 100 < odds => apply(&mut content, change),
                Change::Length(_) => {}
            }
        }
        // A file may have become longer while what was written there was lost.
        if executor::random().is_multiple_of(3) && content.len() < state.content.len() {
            let more = executor::random() % (state.content.len() - content.len() + 1) as u64;
            content.resize(content.len() + more as usize, 0);
        }
        content
    }

    /// See [`super::SimFile::restart`].
    pub(super) fn restart(&self) {
        let content = self.after_power_cut();
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.synced += state.pending.len() as u64;
        state.pending.clear();
        state.durable.clone_from(&content);
        state.content = content;
        self.restarts.set(self.restarts.get() + 1);
    }

    fn no_space(&self, doing: &str) -> Error {
        Error::new(ErrorKind::NoSpace, format!("{doing} {}: no space", self.name))
    }

    /// The length in bytes past which there is no space.
    fn limit(&self) -> u64 {
        let limit = self.faults.get().limit.unwrap_or(LARGEST);
        if self.nature.get().fixed { limit.min(self.len()) } else { limit }
    }

    async fn delay(&self) {
        let delay = self.faults.get().delay;
        if delay > 0 {
            executor::sleep(Duration::from_micros(executor::random() % delay)).await;
        } else {
            executor::yield_now().await;
        }
    }

    pub(super) async fn begin(&self, per_mille: u32, doing: &str) -> Result<()> {
        self.delay().await;
        if self.power.cut.get() {
            return Err(Error::new(ErrorKind::Io, format!("{doing} {}: the power is cut", self.name)));
        }
        if chance(per_mille) {
            tracing::trace!(at = ?executor::now(), file = %self.name, "{doing} fails");
            return Err(Error::new(ErrorKind::Io, format!("{doing} {}: simulated error", self.name)));
        }
        Ok(())
    }

    /// Waits between the effect of an operation and its end.
    pub(super) async fn end(&self) {
        if self.nature.get().late {
            self.delay().await;
        }
    }

    fn change(&self, change: Change) -> Result<()> {
        let n = self.power.changes.get() + 1;
        tracing::trace!(at = ?executor::now(), change = n, file = %self.name, "{change}");
        self.power.changes.set(n);
        let mut state = self.state.borrow_mut();
        apply(&mut state.content, &change);
        state.pending.push(change);
        if self.power.cut_after.get().is_some_and(|limit| n >= limit) {
            tracing::trace!(at = ?executor::now(), "the power is cut");
            self.power.cut.set(true);
            return Err(Error::new(ErrorKind::Io, format!("{}: the power is cut", self.name)));
        }
        Ok(())
    }

    /// Fails, as a kernel would, if a range or memory is not aligned.
    pub(super) fn check(&self, offset: u64, buf: &Buf) -> Result<()> {
        let unit = self.nature.get().alignment;
        if unit == 1 || offset.is_multiple_of(unit) && buf.is_aligned(unit as usize) {
            return Ok(());
        }
        let text = format!("{}: {} bytes at {offset} are not aligned to {unit}", self.name, buf.len());
        Err(Error::new(ErrorKind::Invalid, text))
    }

    /// Fails if a part of a range cannot be read.
    fn check_good(&self, offset: u64, len: u64) -> Result<()> {
        match self.faults.get().bad {
            Some((start, end)) if offset < end && start < offset + len => {
                Err(Error::new(ErrorKind::Io, format!("reading {}: simulated error", self.name)))
            }
            _ => Ok(()),
        }
    }

    /// Fails if a read of a range by a copying worker would fail.
    pub(super) fn check_copied(&self, offset: u64, len: u64) -> Result<()> {
        if chance(self.faults.get().read) {
            return Err(Error::new(ErrorKind::Io, format!("reading {}: simulated error", self.name)));
        }
        self.check_good(offset, len)
    }

    pub(super) async fn read(&self, offset: u64, buf: Buf) -> Result<()> {
        self.begin(self.faults.get().read, "reading").await?;
        self.check_good(offset, buf.len() as u64)?;
        let state = self.state.borrow();
        let start = (offset as usize).min(state.content.len());
        let end = (start + buf.len()).min(state.content.len());
        buf.zero();
        buf.copy_from(&state.content[start..end]);
        tracing::trace!(at = ?executor::now(), file = %self.name, "read {} bytes at {offset}", buf.len());
        Ok(())
    }

    /// Waits as long as a device with a limited rate takes for a write, after those before.
    async fn transfer(&self, bytes: u64) {
        if let Some(nanos) = bytes.saturating_mul(1_000_000_000).checked_div(self.faults.get().rate) {
            let end = self.busy_until.get().max(executor::now()) + Duration::from_nanos(nanos);
            self.busy_until.set(end);
            executor::sleep(end.saturating_sub(executor::now())).await;
        }
    }

    pub(super) async fn write(&self, offset: u64, buf: Buf) -> Result<()> {
        self.transfer(buf.len() as u64).await;
        let failed = self.begin(self.faults.get().write, "writing").await;
        let limit = self.limit();
        if offset + buf.len() as u64 > limit {
            if self.nature.get().fixed && failed.is_ok() && offset < limit {
                // The part that fits is written.
                let data = buf.slice(0..(limit - offset) as usize).to_vec();
                self.change(Change::Write { offset, data })?;
            }
            return Err(self.no_space("writing"));
        }
        if failed.is_err() {
            if !self.power.cut.get() {
                let part = (executor::random() % (buf.len() as u64 / SECTOR + 1) * SECTOR) as usize;
                self.change(Change::Write { offset, data: buf.slice(0..part).to_vec() })?;
            }
            return failed;
        }
        self.change(Change::Write { offset, data: buf.to_vec() })
    }

    pub(super) async fn sync(&self) -> Result<()> {
        // Changes that complete during the sync may or may not be included: count them out.
        let covered = {
            let state = self.state.borrow();
            state.synced + state.pending.len() as u64
        };
        let result = self.begin(self.faults.get().sync, "syncing").await;
        if result.is_err() || self.failed.get() {
            self.failed.set(true);
            return Err(result.err().unwrap_or_else(|| Error::new(ErrorKind::Io, "an earlier sync failed")));
        }
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        // A sync that overlaps this one may have taken some of them already.
        let covered = covered.saturating_sub(state.synced) as usize;
        state.synced += covered as u64;
        tracing::trace!(at = ?executor::now(), file = %self.name, "sync makes {covered} changes durable");
        for change in state.pending.drain(..covered) {
            apply(&mut state.durable, &change);
        }
        Ok(())
    }

    pub(super) async fn set_end(&self, len: u64) -> Result<()> {
        self.begin(0, "resizing").await?;
        if len > LARGEST {
            return Err(self.no_space("resizing"));
        }
        self.change(Change::Length(len))
    }

    /// Cuts the file off without waiting.
    pub(super) fn cut(&self, len: u64) {
        if len < self.len() && !self.power.cut.get() {
            // If the power is cut at this change, nobody is left to handle the error.
            let _ = self.change(Change::Length(len));
        }
    }

    pub(super) async fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.begin(0, "allocating").await?;
        let nature = self.nature.get();
        if nature.fixed || !nature.allocates {
            let text = format!("allocating {}: not supported here", self.name);
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let end = offset + len;
        if end > self.limit() {
            // It may get half way.
            if chance(500) && self.limit() > self.len() {
                self.change(Change::Length(self.limit()))?;
            }
            return Err(self.no_space("allocating"));
        }
        if end > self.len() { self.change(Change::Length(end)) } else { Ok(()) }
    }

    /// Makes a range read as zeros. The length does not change, even if the range lies past it.
    pub(super) async fn clear(&self, offset: u64, len: u64, unmap: bool) -> Result<bool> {
        self.begin(self.faults.get().write, "punching").await?;
        let nature = self.nature.get();
        if !(nature.punches || nature.zeroes && !unmap) {
            return Ok(false);
        }
        if nature.fixed && !(offset | len).is_multiple_of(nature.alignment.max(SECTOR)) {
            let text = format!("punching {}: {len} bytes at {offset} are not whole sectors", self.name);
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        self.fill(offset, len, 0).map(|()| true)
    }

    fn fill(&self, offset: u64, len: u64, byte: u8) -> Result<()> {
        let len = (offset + len).min(self.len()).saturating_sub(offset);
        if len == 0 {
            return Ok(());
        }
        self.change(Change::Write { offset, data: vec![byte; len as usize] })
    }

    pub(super) async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.begin(self.faults.get().write, "discarding").await?;
        if !self.nature.get().punches || chance(20) {
            let text = format!("discarding {}: not supported here", self.name);
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        // Noise, so that whoever still reads the range sees data that is nobody's.
        self.fill(offset, len, executor::random() as u8)
    }

    pub(super) async fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        self.begin(self.faults.get().read, "mapping").await?;
        let state = self.state.borrow();
        let is_data = |at: u64| {
            let start = (at as usize).min(state.content.len());
            let end = (start + SECTOR as usize).min(state.content.len());
            !crate::buf::is_zero(&state.content[start..end])
        };
        let data = is_data(offset);
        let mut run = SECTOR - offset % SECTOR;
        while run < len && is_data(offset + run) == data {
            run += SECTOR;
        }
        Ok(Extent { len: run.min(len), data })
    }

    /// Returns the data that a copy from `source` would write, and true if it shares the blocks; `None` if
    /// the copy is refused, as a file system may do at any time.
    pub(super) async fn copies(
        &self,
        source: &Medium,
        from: u64,
        to: u64,
        len: u64,
    ) -> Result<Option<(bool, Vec<u8>)>> {
        self.begin(self.faults.get().write, "copying to").await?;
        if to + len > self.limit() {
            return Err(self.no_space("copying to"));
        }
        let nature = self.nature.get();
        let whole = (from | to | len).is_multiple_of(nature.alignment);
        let cached = nature.alignment == 1 && source.nature.get().alignment == 1;
        let shares = match nature.sharing {
            _ if nature.fixed => false,
            Sharing::Mixed if chance(300) => return Ok(None),
            // Sharing reads nothing; a copy of a bad range must meet the read error.
            Sharing::Mixed => whole && source.check_good(from, len).is_ok() && chance(500),
            Sharing::Always => whole,
            Sharing::Never => false,
        };
        if !shares && !cached {
            return Ok(None);
        }
        let state = source.state.borrow();
        let data = state.content.get(from as usize..(from + len) as usize).map(<[u8]>::to_vec);
        Ok(data.map(|data| (shares, data)))
    }

    pub(super) fn put(&self, offset: u64, data: Vec<u8>) -> Result<()> {
        self.change(Change::Write { offset, data })
    }

    /// The bytes of its sectors that are not all zeros, which its map calls data.
    pub(super) fn space(&self) -> u64 {
        let state = self.state.borrow();
        let sectors = state.content.chunks(SECTOR as usize);
        sectors.filter(|sector| !crate::buf::is_zero(sector)).count() as u64 * SECTOR
    }
}
