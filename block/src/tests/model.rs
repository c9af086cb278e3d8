//! A guest that knows what its disk must hold, and independent checks of qcow2 and QED images.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use executor::{JoinHandle, spawn};

use crate::{Buf, Disk};

const SECTOR: usize = 512;

/// Returns a random number below `n`.
pub fn random(n: u64) -> u64 {
    executor::random() % n
}

/// The contents that a sector may hold: all since the last flush that covered it, the newest last.
#[derive(Clone)]
struct Versions {
    /// Number of versions that were dropped, so that the numbers of the others do not change.
    dropped: usize,
    list: Vec<[u8; SECTOR]>,
    /// Number of the oldest version that a read may find: the newest, except after changes that failed.
    sure: usize,
}

impl Versions {
    fn new(content: [u8; SECTOR]) -> Self {
        Versions { dropped: 0, list: vec![content], sure: 0 }
    }

    fn newest(&self) -> usize {
        self.dropped + self.list.len() - 1
    }

    /// Records that the sector holds the newest version.
    fn settle(&mut self) {
        self.sure = self.newest();
    }

    /// Returns the contents that a read may find.
    fn possible(&self) -> &[[u8; SECTOR]] {
        &self.list[self.sure - self.dropped..]
    }

    /// Forgets everything older than version `n`.
    fn forget_before(&mut self, n: usize) {
        let gone = n.saturating_sub(self.dropped);
        self.list.drain(..gone);
        self.dropped += gone;
    }
}

struct State {
    sectors: Vec<Versions>,
    /// Ranges with an operation in flight, which the guest keeps apart as an operating system does.
    busy: Vec<Range<u64>>,
    /// Ranges and buffers of operations that were dropped: in flight until the disk was drained.
    left: Vec<(Range<u64>, Buf)>,
}

impl State {
    fn new(sectors: Vec<Versions>) -> RefCell<Self> {
        RefCell::new(State { sectors, busy: Vec::new(), left: Vec::new() })
    }

    /// Returns the ranges that may have an operation in flight.
    fn taken(&self) -> impl Iterator<Item = &Range<u64>> {
        self.busy.iter().chain(self.left.iter().map(|(range, _)| range))
    }
}

/// A guest that uses a disk.
pub struct Guest {
    disk: Rc<Disk>,
    state: RefCell<State>,
}

/// A range of sectors, taken for one operation.
struct Busy<'a> {
    guest: &'a Guest,
    range: Range<u64>,
    buf: Buf,
    ended: bool,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut state = self.guest.state.borrow_mut();
        state.busy.retain(|range| *range != self.range);
        if !self.ended {
            state.left.push((self.range.clone(), self.buf.clone()));
        }
    }
}

impl Guest {
    pub fn new(disk: Rc<Disk>, content: Vec<u8>) -> Rc<Self> {
        let sectors = content.chunks(SECTOR).map(|s| Versions::new(s.try_into().unwrap())).collect();
        Rc::new(Guest { disk, state: State::new(sectors) })
    }

    /// Returns the same guest on another disk with the same content.
    pub fn on(&self, disk: Rc<Disk>) -> Rc<Self> {
        let sectors = self.state.borrow().sectors.clone();
        Rc::new(Guest { disk, state: State::new(sectors) })
    }

    /// Returns the number of sectors that it knows.
    pub fn sectors(&self) -> u64 {
        self.state.borrow().sectors.len() as u64
    }

    /// Records that its disk has this many sectors; the new ones hold zeros.
    pub fn grow(&self, sectors: u64) {
        self.state.borrow_mut().sectors.resize(sectors as usize, Versions::new([0; SECTOR]));
    }

    /// Records that the newest certain content of every sector survives a power cut.
    pub fn everything_is_durable(&self) {
        for versions in &mut self.state.borrow_mut().sectors {
            versions.forget_before(versions.sure);
        }
    }

    fn take(&self, range: Range<u64>) -> Option<Busy<'_>> {
        let mut state = self.state.borrow_mut();
        if state.taken().any(|taken| taken.start < range.end && range.start < taken.end) {
            return None;
        }
        state.busy.push(range.clone());
        let buf = Buf::new((range.end - range.start) as usize * SECTOR);
        Some(Busy { guest: self, range, buf, ended: false })
    }

    /// Does `count` random operations.
    pub async fn work(self: Rc<Self>, count: u64) {
        for _ in 0..count {
            self.step().await.unwrap();
        }
    }

    /// Does up to `count` random operations, until one fails.
    pub async fn work_until_error(self: Rc<Self>, count: u64) {
        for _ in 0..count {
            if self.step().await.is_err() {
                return;
            }
        }
    }

    /// Starts this many workers of `count` steps each. If there may be a power cut, an error ends one.
    pub fn workers(self: &Rc<Self>, workers: u64, count: u64, cut: bool) -> Vec<JoinHandle<()>> {
        let start = |_| match cut {
            true => spawn(self.clone().work_until_error(count)),
            false => spawn(self.clone().work(count)),
        };
        (0..workers).map(start).collect()
    }

    /// Does `count` random operations, of which some may fail. Returns the number that failed.
    pub async fn work_through_errors(self: Rc<Self>, count: u64) -> u64 {
        let mut failed = 0;
        for _ in 0..count {
            failed += u64::from(self.step().await.is_err());
        }
        failed
    }

    /// Flushes the disk.
    pub async fn flush_now(&self) -> crate::Result<()> {
        let ticket = self.disk.enter().await;
        self.flush(&ticket).await
    }

    /// Does `count` random operations, and drops most of them at a random time.
    pub async fn work_and_drop(self: Rc<Self>, count: u64) {
        for _ in 0..count {
            let patience = Duration::from_micros(random(400));
            executor::timeout(patience, self.step()).await.unwrap_or(Ok(())).unwrap();
        }
    }

    /// Checks that no operation is in flight, including dropped ones: nobody holds their buffers.
    pub fn is_drained(&self) {
        for (_, mut buf) in self.state.borrow_mut().left.drain(..) {
            assert!(buf.bytes_mut().is_some(), "the buffer of a dropped request is in use after a drain");
        }
    }

    async fn step(&self) -> crate::Result<()> {
        let sectors = self.state.borrow().sectors.len() as u64;
        let start = random(sectors);
        let most = if random(8) == 0 { 200 } else { 16 };
        let range = start..(start + 1 + random(most)).min(sectors);
        let operation = random(10);
        if operation == 9 {
            return self.flush_now().await;
        }
        let Some(mut busy) = self.take(range.clone()) else {
            executor::yield_now().await;
            return Ok(());
        };
        let ticket = self.disk.enter().await;
        let result = self.operate(&ticket, operation, &range, &busy.buf).await;
        busy.ended = true;
        result
    }

    async fn operate(
        &self,
        ticket: &crate::Ticket,
        operation: u64,
        range: &Range<u64>,
        buf: &Buf,
    ) -> crate::Result<()> {
        let (offset, len) = (range.start * 512, buf.len());
        match operation {
            0..=3 => {
                let bytes: Vec<u8> = match random(4) {
                    0 => vec![0; len],
                    _ => (0..len.div_ceil(8))
                        .flat_map(|_| executor::random().to_le_bytes())
                        .take(len)
                        .collect(),
                };
                // Possible from now on, certain once the write has succeeded.
                self.add_versions(range, &bytes);
                buf.copy_from(&bytes);
                self.disk.write(ticket, offset, buf.clone()).await?;
                self.settle(range);
            }
            4..=6 => {
                self.disk.read(ticket, offset, buf.clone()).await?;
                self.compare(range, &buf.to_vec());
            }
            7 => {
                self.add_versions(range, &vec![0; len]);
                self.disk.write_zeroes(ticket, offset, len as u64, random(2) == 0).await?;
                self.settle(range);
            }
            _ => {
                // A discard may leave the old content or zeros: find out which.
                self.add_versions(range, &vec![0; len]);
                self.disk.discard(ticket, offset, len as u64).await?;
                self.disk.read(ticket, offset, buf.clone()).await?;
                self.settle_discard(range, &buf.to_vec());
            }
        }
        Ok(())
    }

    async fn flush(&self, ticket: &crate::Ticket) -> crate::Result<()> {
        // Changes that completed before the flush began are durable when it ends; those in flight may be.
        let covered: BTreeMap<usize, usize> = {
            let state = self.state.borrow();
            let idle = |n: &usize| !state.taken().any(|taken| taken.contains(&(*n as u64)));
            (0..state.sectors.len()).filter(idle).map(|n| (n, state.sectors[n].sure)).collect()
        };
        self.disk.flush(ticket).await?;
        let mut state = self.state.borrow_mut();
        for (n, sure) in covered {
            state.sectors[n].forget_before(sure);
        }
        Ok(())
    }

    fn add_versions(&self, range: &Range<u64>, bytes: &[u8]) {
        let mut state = self.state.borrow_mut();
        for (n, sector) in (range.start as usize..range.end as usize).zip(bytes.chunks(SECTOR)) {
            state.sectors[n].list.push(sector.try_into().unwrap());
        }
    }

    fn settle(&self, range: &Range<u64>) {
        let mut state = self.state.borrow_mut();
        range.clone().for_each(|n| state.sectors[n as usize].settle());
    }

    /// Records the content that is found after a discard.
    fn settle_discard(&self, range: &Range<u64>, bytes: &[u8]) {
        self.compare(range, bytes);
        self.add_versions(range, bytes);
        self.settle(range);
    }

    fn compare(&self, range: &Range<u64>, bytes: &[u8]) {
        let state = self.state.borrow();
        for (n, sector) in (range.start as usize..range.end as usize).zip(bytes.chunks(SECTOR)) {
            let found = state.sectors[n].possible().iter().any(|version| sector == version);
            assert!(found, "sector {n} is not what was written last");
        }
    }

    /// Reads everything and compares.
    pub async fn verify(&self) {
        self.verify_on(&self.disk).await;
    }

    pub async fn verify_on(&self, disk: &Rc<Disk>) {
        let bytes = read_all(disk).await;
        // A disk that moved to a larger image holds more, which this guest does not know.
        let known = self.sectors();
        assert!(bytes.len() as u64 >= known * 512, "the disk has become smaller");
        self.compare(&(0..known), &bytes);
    }

    /// Checks that every sector holds what the last flush covered, or something newer that was written
    /// to it. The content that it finds is that of the disk from now on.
    pub async fn verify_after_power_cut(&self, disk: &Rc<Disk>) {
        let bytes = read_all(disk).await;
        let mut state = self.state.borrow_mut();
        // A disk that grew holds more, which this guest does not know.
        for (n, sector) in bytes.chunks(SECTOR).enumerate().take(state.sectors.len()) {
            let found: [u8; SECTOR] = sector.try_into().unwrap();
            assert!(
                state.sectors[n].list.contains(&found),
                "sector {n} holds what it never held since its flush"
            );
            state.sectors[n] = Versions::new(found);
        }
    }
}

pub async fn read_all(disk: &Rc<Disk>) -> Vec<u8> {
    let ticket = disk.enter().await;
    let buf = Buf::new(disk.size() as usize);
    disk.read(&ticket, 0, buf.clone()).await.unwrap();
    buf.to_vec()
}

/// Leaks that a check accepts: clusters that are counted but not referenced.
#[derive(PartialEq, Eq)]
pub enum Leaks {
    None,
    Allowed,
    /// Like `Allowed`; also, a QED image that was closed while reads were in flight may have a leaked end.
    Any,
}

/// Reads a qcow2 image by its specification alone and compares every refcount with the references.
pub fn check_refcounts(image: &[u8], leaks: Leaks) {
    let word = |at: usize| u64::from_be_bytes(image[at..at + 8].try_into().unwrap());
    let half = |at: usize| u32::from_be_bytes(image[at..at + 4].try_into().unwrap());
    let cluster = 1usize << half(20);
    // Version 2 has no features, and counts of 16 bits.
    let v3 = half(4) >= 3;
    let extended = v3 && word(72) & 16 != 0;
    let bits = if v3 { 1usize << half(96) } else { 16 };
    let clusters = image.len().div_ceil(cluster);
    let mut references = vec![0u64; clusters];
    let mut refer = |offset: usize, count: usize| {
        let first = offset / cluster;
        let range = references.get_mut(first..first + count);
        let range = range.unwrap_or_else(|| panic!("clusters from {first} lie outside of the file"));
        range.iter_mut().for_each(|references| *references += 1);
    };
    refer(0, 1);
    let (l1_entries, l1) = (half(36) as usize, word(40) as usize);
    refer(l1, (l1_entries * 8).div_ceil(cluster));
    let (table, table_clusters) = (word(48) as usize, half(56) as usize);
    refer(table, table_clusters);
    let offset_mask = 0x00ff_ffff_ffff_fe00u64;
    let at = |offset: usize| if offset + 8 <= image.len() { word(offset) } else { 0 };
    for n in 0..l1_entries {
        let l2 = (word(l1 + n * 8) & offset_mask) as usize;
        if l2 == 0 {
            continue;
        }
        refer(l2, 1);
        for entry in (l2..l2 + cluster).step_by(if extended { 16 } else { 8 }) {
            let host = (at(entry) & offset_mask) as usize;
            if host != 0 {
                refer(host, 1);
            }
        }
    }
    let mut counts = vec![0u64; clusters];
    for n in 0..table_clusters * cluster / 8 {
        let block = at(table + n * 8) as usize;
        if block == 0 {
            continue;
        }
        refer(block, 1);
        let per_block = cluster * 8 / bits;
        for index in 0..per_block {
            let number = n * per_block + index;
            let byte = |at: usize| image.get(block + at).copied().map_or(0, u64::from);
            let count = match bits / 8 {
                0 => byte(index * bits / 8) >> (index * bits % 8) & ((1 << bits) - 1),
                width => (0..width).fold(0, |count, at| count << 8 | byte(index * width + at)),
            };
            match counts.get_mut(number) {
                Some(slot) => *slot = count,
                // A leak past the end of the file, of a cluster that was never written.
                None => assert!(count == 0 || leaks != Leaks::None),
            }
        }
    }
    for (n, (count, references)) in counts.iter().zip(&references).enumerate() {
        assert!(count >= references, "cluster {n}: refcount {count}, {references} references");
        assert!(leaks != Leaks::None || count == references, "cluster {n} is leaked");
    }
}

/// Checks a QED image by its specification alone: no cluster has two owners, and all are inside the
/// file. A leaked end needs the NEED_CHECK bit, which a closed image does not have; but a leak of an
/// earlier session may have become the end when the clusters behind it were freed. `before` are the
/// clusters in use before that session; returns those in use now.
pub fn check_qed(image: &[u8], leaks: Leaks, before: &[bool]) -> Vec<bool> {
    let number = |at: usize, len: usize| {
        image[at..at + len].iter().rev().fold(0usize, |value, byte| value << 8 | *byte as usize)
    };
    assert_eq!(&image[..4], b"QED\0");
    let (cluster, features) = (number(4, 4), number(16, 8));
    let table = number(8, 4) * cluster;
    let mut used = vec![false; image.len() / cluster];
    let mut refer = |offset: usize, len: usize| {
        assert_eq!(offset % cluster, 0, "{offset:#x} is not aligned");
        assert!(offset + len <= image.len() / cluster * cluster, "{offset:#x} lies outside of the file");
        for used in &mut used[offset / cluster..(offset + len) / cluster] {
            assert!(!*used, "{offset:#x} is referred to twice");
            *used = true;
        }
    };
    refer(0, number(12, 4) * cluster);
    let l1 = number(40, 8);
    refer(l1, table);
    for l2 in (l1..l1 + table).step_by(8).map(|at| number(at, 8)).filter(|l2| *l2 != 0) {
        refer(l2, table);
        for host in (l2..l2 + table).step_by(8).map(|at| number(at, 8)).filter(|host| *host > 1) {
            refer(host, cluster);
        }
    }
    let marked = features & 2 != 0;
    // Leaks of earlier sessions are not known, so clusters freed in front of one stay, too.
    let last = used.len() - 1;
    let trimmed = image.len().is_multiple_of(cluster) && (used[last] || before.get(last) == Some(&false));
    assert!(leaks != Leaks::None || !marked, "closed, but NEED_CHECK is set");
    assert!(leaks == Leaks::Any || marked || trimmed, "the file's end is leaked, but NEED_CHECK is not set");
    let leaked = (0..used.len()).find(|n| !used[*n] && before.get(*n) != Some(&false));
    assert!(leaks != Leaks::None || leaked.is_none(), "cluster {leaked:?} is leaked");
    used
}
