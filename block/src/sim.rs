//! The simulator's storage: a file in memory whose delays, failures and power cuts come from a seed.
//!
//! It runs under [`executor::Executor::simulated`], so a whole schedule is replayable from its number.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::time::Duration;

use async_trait::async_trait;

use crate::chain::Opener;
use crate::storage::{Extent, Identity, Lock, Storage, Transfer};
use crate::{Buf, Error, ErrorKind, Result};

/// The unit that storage writes whole or not at all.
const SECTOR: u64 = 512;

/// The largest file: all of it is in memory, holes included.
const LARGEST: u64 = 192 << 20;

/// What a simulated file does wrong, each drawn anew for every operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Reads that fail, of 1000.
    pub read: u32,
    /// Writes that fail, of 1000; a failed write may have written any of its sectors.
    pub write: u32,
    /// Syncs that fail, of 1000.
    pub sync: u32,
    /// The length beyond which nothing can be written (`NoSpace`).
    pub limit: Option<u64>,
    /// The longest time that an operation takes, in microseconds. 0: none waits.
    pub delay: u64,
}

/// One change that was acknowledged but not synced.
enum Change {
    Write { offset: u64, data: Vec<u8> },
    Length(u64),
}

#[derive(Default)]
struct State {
    content: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
    /// How many changes have left `pending`, so that each has a number for good.
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

/// A simulated file.
pub struct SimFile {
    this: Weak<SimFile>,
    name: String,
    identity: Identity,
    state: RefCell<State>,
    faults: Cell<Faults>,
    failed: Cell<bool>,
    power: Rc<Power>,
}

/// The supply that files share: when it is cut, every one of them stops.
#[derive(Default)]
struct Power {
    cut: Cell<bool>,
    changes: Cell<u64>,
    cut_after: Cell<Option<u64>>,
}

impl SimFile {
    /// A file with this content, all of it durable.
    pub fn new(name: &str, content: Vec<u8>) -> Rc<Self> {
        Self::powered(name, content, Rc::default())
    }

    fn powered(name: &str, content: Vec<u8>, power: Rc<Power>) -> Rc<Self> {
        let inode = executor::random();
        Rc::new_cyclic(|this| SimFile {
            this: this.clone(),
            name: name.to_owned(),
            identity: Identity { device: 0, inode },
            state: RefCell::new(State { durable: content.clone(), content, ..State::default() }),
            faults: Cell::default(),
            failed: Cell::default(),
            power,
        })
    }

    /// What it does wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.faults.set(faults);
    }

    /// Its content as programs see it.
    pub fn content(&self) -> Vec<u8> {
        self.state.borrow().content.clone()
    }

    /// What a power cut now would leave: everything synced, and of the rest any sectors in any
    /// combination, each old or new, and any length that the file had or was growing to.
    pub fn after_power_cut(&self) -> Vec<u8> {
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

    fn limit(&self) -> u64 {
        self.faults.get().limit.unwrap_or(LARGEST)
    }

    fn chance(&self, per_mille: u32) -> bool {
        per_mille > 0 && executor::random() % 1000 < u64::from(per_mille)
    }

    /// Runs an operation in a task of its own: dropping the future that asked abandons its result, and
    /// what the device has, it does.
    async fn detached<F: Future<Output = Result<()>> + 'static>(
        &self,
        operation: impl FnOnce(Rc<SimFile>) -> F,
    ) -> Result<()> {
        let this = self.this.upgrade().expect("whoever calls holds the file");
        executor::spawn(operation(this)).await.expect("operations are not cancelled")
    }

    async fn begin(&self, per_mille: u32, doing: &str) -> Result<()> {
        let delay = self.faults.get().delay;
        if delay > 0 {
            executor::sleep(Duration::from_micros(executor::random() % delay)).await;
        } else {
            executor::yield_now().await;
        }
        if self.power.cut.get() {
            return Err(Error::new(ErrorKind::Io, format!("{doing} {}: the power is cut", self.name)));
        }
        if self.chance(per_mille) {
            return Err(Error::new(ErrorKind::Io, format!("{doing} {}: simulated error", self.name)));
        }
        Ok(())
    }

    fn change(&self, change: Change) -> Result<()> {
        let n = self.power.changes.get() + 1;
        self.power.changes.set(n);
        let mut state = self.state.borrow_mut();
        apply(&mut state.content, &change);
        state.pending.push(change);
        if self.power.cut_after.get().is_some_and(|limit| n >= limit) {
            self.power.cut.set(true);
            return Err(Error::new(ErrorKind::Io, format!("{}: the power is cut", self.name)));
        }
        Ok(())
    }

    async fn read_now(&self, offset: u64, buf: Buf) -> Result<()> {
        self.begin(self.faults.get().read, "reading").await?;
        let state = self.state.borrow();
        let start = (offset as usize).min(state.content.len());
        let end = (start + buf.len()).min(state.content.len());
        buf.zero();
        buf.copy_from(&state.content[start..end]);
        Ok(())
    }

    async fn write_now(&self, offset: u64, buf: Buf) -> Result<()> {
        let failed = self.begin(self.faults.get().write, "writing").await;
        if offset + buf.len() as u64 > self.limit() {
            return Err(Error::new(ErrorKind::NoSpace, format!("writing {}: no space", self.name)));
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
}

#[async_trait(?Send)]
impl Storage for SimFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.state.borrow().content.len() as u64
    }

    async fn read(&self, offset: u64, buf: Buf) -> Result<()> {
        self.detached(|this| async move { this.read_now(offset, buf).await }).await
    }

    async fn write(&self, offset: u64, buf: Buf) -> Result<()> {
        self.detached(|this| async move { this.write_now(offset, buf).await }).await
    }

    async fn sync(&self) -> Result<()> {
        // What completes while the device is at it may or may not be included: count it out.
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
        for change in state.pending.drain(..covered) {
            apply(&mut state.durable, &change);
        }
        Ok(())
    }

    async fn truncate(&self, len: u64) -> Result<()> {
        self.begin(0, "resizing").await?;
        if len > LARGEST {
            return Err(Error::new(ErrorKind::NoSpace, format!("resizing {}: no space", self.name)));
        }
        self.change(Change::Length(len))
    }

    async fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.begin(0, "allocating").await?;
        let end = offset + len;
        if end > self.limit() {
            return Err(Error::new(ErrorKind::NoSpace, format!("allocating {}: no space", self.name)));
        }
        if end > self.len() { self.change(Change::Length(end)) } else { Ok(()) }
    }

    async fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.begin(self.faults.get().write, "punching").await?;
        let len = (offset + len).min(self.len()).saturating_sub(offset);
        // The length stays, also where the range lies behind it.
        if len == 0 {
            return Ok(());
        }
        self.change(Change::Write { offset, data: vec![0; len as usize] })
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.begin(self.faults.get().write, "discarding").await?;
        if self.chance(20) {
            let text = format!("discarding {}: not supported here", self.name);
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        // Noise, so that whoever still looks at it sees what is nobody's data.
        let len = (offset + len).min(self.len()).saturating_sub(offset);
        if len == 0 {
            return Ok(());
        }
        let data = vec![executor::random() as u8; len as usize];
        self.change(Change::Write { offset, data })
    }

    async fn map(&self, offset: u64, len: u64) -> Result<Extent> {
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

    async fn copy_from(
        &self,
        source: &dyn Storage,
        from: u64,
        to: u64,
        len: u64,
        unit: u64,
    ) -> Result<Option<Transfer>> {
        self.begin(self.faults.get().write, "copying to").await?;
        if to + len > self.limit() {
            return Err(Error::new(ErrorKind::NoSpace, format!("copying to {}: no space", self.name)));
        }
        // Refused now and then, as a file system may at any time.
        let Some(source) = source.as_any().downcast_ref::<SimFile>().filter(|_| !self.chance(300)) else {
            return Ok(None);
        };
        let data =
            source.state.borrow().content.get(from as usize..(from + len) as usize).map(<[u8]>::to_vec);
        let Some(data) = data else { return Ok(None) };
        if self.chance(500) {
            return self.change(Change::Write { offset: to, data }).map(|()| Some(Transfer::Shared));
        }
        let mut zero: Vec<Range<u64>> = Vec::new();
        for (start, piece) in (0..).step_by(unit as usize).zip(data.chunks(unit as usize)) {
            if !crate::buf::is_zero(piece) {
                self.change(Change::Write { offset: to + start, data: piece.to_vec() })?;
            } else if let Some(last) = zero.last_mut().filter(|last| last.end == start) {
                last.end = start + piece.len() as u64;
            } else {
                zero.push(start..start + piece.len() as u64);
            }
        }
        Ok(Some(Transfer::Written { zero }))
    }

    fn can_copy_from(&self, source: &dyn Storage) -> bool {
        source.as_any().is::<SimFile>() && self.chance(500)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn lock(&self, _lock: Lock) -> Result<()> {
        Ok(())
    }

    /// That of its sectors that are not all zeros, which its map calls data.
    fn space(&self) -> Option<u64> {
        let state = self.state.borrow();
        let sectors = state.content.chunks(SECTOR as usize);
        Some(sectors.filter(|sector| !crate::buf::is_zero(sector)).count() as u64 * SECTOR)
    }

    fn identity(&self) -> Option<Identity> {
        Some(self.identity)
    }

    async fn sync_name(&self) -> Result<()> {
        self.begin(0, "syncing").await
    }
}

/// Simulated files by name: the folder that images are opened from in a simulation.
#[derive(Default)]
pub struct SimDir {
    files: RefCell<BTreeMap<String, Rc<SimFile>>>,
    power: Rc<Power>,
}

impl SimDir {
    /// An empty folder.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Adds a file, in the place of one of the same name.
    pub fn add(&self, name: &str, content: Vec<u8>) -> Rc<SimFile> {
        let file = SimFile::powered(name, content, self.power.clone());
        self.files.borrow_mut().insert(name.to_owned(), file.clone());
        file
    }

    /// Finds a file.
    pub fn get(&self, name: &str) -> Result<Rc<SimFile>> {
        let found = self.files.borrow().get(name).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{name}: no such simulated file")))
    }

    /// Cuts the power at the `n`-th change of any file from now: from there on every operation fails.
    pub fn cut_after(&self, n: u64) {
        self.power.cut_after.set(Some(self.power.changes.get() + n));
    }

    /// All files as a power cut leaves them, in a new folder.
    pub fn after_power_cut(&self) -> Rc<Self> {
        let next = SimDir::new();
        for (name, file) in &*self.files.borrow() {
            next.add(name, file.after_power_cut());
        }
        next
    }
}

#[async_trait(?Send)]
impl Opener for SimDir {
    async fn open(&self, name: &str, _writable: bool) -> Result<Rc<dyn Storage>> {
        executor::yield_now().await;
        Ok(self.get(name)?)
    }

    async fn create(&self, name: &str) -> Result<Rc<dyn Storage>> {
        executor::yield_now().await;
        Ok(self.add(name, Vec::new()))
    }
}
