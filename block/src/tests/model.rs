//! A guest that knows what its disk must hold, and an independent reader of qcow2 refcounts.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use crate::{Buf, Disk};

const SECTOR: usize = 512;

/// A number below `n`.
pub fn random(n: u64) -> u64 {
    executor::random() % n
}

/// What a sector may hold: every content since the last flush that covered it; the last is the
/// newest.
struct Versions {
    /// How many were dropped, so that each has a number for good.
    dropped: usize,
    list: Vec<[u8; SECTOR]>,
}

impl Versions {
    fn new(content: [u8; SECTOR]) -> Self {
        Versions { dropped: 0, list: vec![content] }
    }

    fn newest(&self) -> usize {
        self.dropped + self.list.len() - 1
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
    /// A change was refused: its sectors hold the old or the new.
    refused: bool,
}

/// A guest at work on a disk.
pub struct Guest {
    disk: Rc<Disk>,
    state: RefCell<State>,
}

/// Takes a range of sectors for one operation.
struct Busy<'a>(&'a Guest, Range<u64>);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.state.borrow_mut().busy.retain(|range| *range != self.1);
    }
}

impl Guest {
    pub fn new(disk: Rc<Disk>, content: Vec<u8>) -> Rc<Self> {
        let sectors = content.chunks(SECTOR).map(|s| Versions::new(s.try_into().unwrap())).collect();
        Rc::new(Guest { disk, state: RefCell::new(State { sectors, busy: Vec::new(), refused: false }) })
    }

    fn take(&self, range: Range<u64>) -> Option<Busy<'_>> {
        let mut state = self.state.borrow_mut();
        if state.busy.iter().any(|busy| busy.start < range.end && range.start < busy.end) {
            return None;
        }
        state.busy.push(range.clone());
        Some(Busy(self, range))
    }

    /// `count` random operations.
    pub async fn work(self: Rc<Self>, count: u64) {
        for _ in 0..count {
            self.step().await.unwrap();
        }
    }

    /// Up to `count` random operations, until one fails.
    pub async fn work_until_error(self: Rc<Self>, count: u64) {
        for _ in 0..count {
            if self.step().await.is_err() {
                self.state.borrow_mut().refused = true;
                return;
            }
        }
    }

    async fn step(&self) -> crate::Result<()> {
        let sectors = self.state.borrow().sectors.len() as u64;
        let start = random(sectors);
        let most = if random(8) == 0 { 200 } else { 16 };
        let range = start..(start + 1 + random(most)).min(sectors);
        let Some(busy) = self.take(range.clone()) else {
            executor::yield_now().await;
            return Ok(());
        };
        let (offset, len) = (start * 512, (range.end - start) as usize * SECTOR);
        let ticket = self.disk.enter().await;
        match random(10) {
            0..=3 => {
                let bytes: Vec<u8> = match random(4) {
                    0 => vec![0; len],
                    _ => (0..len.div_ceil(8))
                        .flat_map(|_| executor::random().to_le_bytes())
                        .take(len)
                        .collect(),
                };
                // Possible from now on, certain once it was answered.
                self.add_versions(&range, &bytes);
                self.disk.write(&ticket, offset, Buf::from_bytes(&bytes)).await?;
            }
            4..=6 => {
                let buf = Buf::new(len);
                self.disk.read(&ticket, offset, buf.clone()).await?;
                self.compare(&range, &buf.to_vec());
            }
            7 => {
                self.add_versions(&range, &vec![0; len]);
                self.disk.write_zeroes(&ticket, offset, len as u64, random(2) == 0).await?;
            }
            8 => {
                // A discard may leave the old content or zeros: find out which.
                self.add_versions(&range, &vec![0; len]);
                self.disk.discard(&ticket, offset, len as u64).await?;
                let buf = Buf::new(len);
                self.disk.read(&ticket, offset, buf.clone()).await?;
                self.settle_discard(&range, &buf.to_vec());
            }
            _ => {
                drop(busy);
                self.flush(&ticket).await?;
            }
        }
        Ok(())
    }

    async fn flush(&self, ticket: &crate::Ticket) -> crate::Result<()> {
        // What was answered before the flush began is durable when it ends; what is in flight may be.
        let covered: BTreeMap<usize, usize> = {
            let state = self.state.borrow();
            let idle = |n: &usize| !state.busy.iter().any(|busy| busy.contains(&(*n as u64)));
            (0..state.sectors.len()).filter(idle).map(|n| (n, state.sectors[n].newest())).collect()
        };
        self.disk.flush(ticket).await?;
        let mut state = self.state.borrow_mut();
        for (n, newest) in covered {
            state.sectors[n].forget_before(newest);
        }
        Ok(())
    }

    fn add_versions(&self, range: &Range<u64>, bytes: &[u8]) {
        let mut state = self.state.borrow_mut();
        for (n, sector) in (range.start as usize..range.end as usize).zip(bytes.chunks(SECTOR)) {
            state.sectors[n].list.push(sector.try_into().unwrap());
        }
    }

    fn settle_discard(&self, range: &Range<u64>, bytes: &[u8]) {
        let mut state = self.state.borrow_mut();
        for (n, sector) in (range.start as usize..range.end as usize).zip(bytes.chunks(SECTOR)) {
            let versions = &mut state.sectors[n].list;
            let old = versions.len().checked_sub(2).map(|at| versions[at]);
            if *sector != versions[versions.len() - 1] {
                assert!(Some(sector) == old.as_ref().map(|old| &old[..]), "sector {n} after a discard");
                versions.push(sector.try_into().unwrap());
            }
        }
    }

    fn compare(&self, range: &Range<u64>, bytes: &[u8]) {
        let state = self.state.borrow();
        for (n, sector) in (range.start as usize..range.end as usize).zip(bytes.chunks(SECTOR)) {
            let versions = &state.sectors[n].list;
            let newest = sector == versions.last().unwrap();
            let one_of_them = state.refused && versions.iter().any(|version| sector == version);
            assert!(newest || one_of_them, "sector {n} is not what was written last");
        }
    }

    /// Reads everything and compares.
    pub async fn verify(&self) {
        self.verify_on(&self.disk).await;
    }

    pub async fn verify_on(&self, disk: &Rc<Disk>) {
        let bytes = read_all(disk).await;
        self.compare(&(0..bytes.len() as u64 / 512), &bytes);
    }

    /// Every sector holds what the last flush covered, or something newer that was written to it.
    /// What is found is what the disk holds from now on.
    pub async fn verify_after_power_cut(&self, disk: &Rc<Disk>) {
        let bytes = read_all(disk).await;
        let mut state = self.state.borrow_mut();
        // A disk that grew holds more; that is not this guest's.
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

async fn read_all(disk: &Rc<Disk>) -> Vec<u8> {
    let ticket = disk.enter().await;
    let buf = Buf::new(disk.size() as usize);
    disk.read(&ticket, 0, buf.clone()).await.unwrap();
    buf.to_vec()
}

/// Whether clusters may be counted that nothing refers to.
#[derive(PartialEq, Eq)]
pub enum Leaks {
    None,
    Allowed,
}

/// Reads a qcow2 image by its specification alone and compares every refcount with the references.
pub fn check_refcounts(image: &[u8], leaks: Leaks) {
    let word = |at: usize| u64::from_be_bytes(image[at..at + 8].try_into().unwrap());
    let half = |at: usize| u32::from_be_bytes(image[at..at + 4].try_into().unwrap());
    let cluster = 1usize << half(20);
    let extended = word(72) & 16 != 0;
    let clusters = image.len().div_ceil(cluster);
    let mut references = vec![0u64; clusters];
    let mut refer = |offset: usize, count: usize| {
        let first = offset / cluster;
        for n in first..first + count {
            assert!(n < clusters, "cluster {n} lies outside of the file");
            references[n] += 1;
        }
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
        for index in 0..cluster / 2 {
            let (number, from) = (n * cluster / 2 + index, block + index * 2);
            let count = image.get(from..from + 2).map_or(0, |b| u16::from_be_bytes(b.try_into().unwrap()));
            match counts.get_mut(number) {
                Some(slot) => *slot = count.into(),
                // A leak past the end of the file, of a cluster that was never written.
                None => assert!(count == 0 || leaks == Leaks::Allowed),
            }
        }
    }
    for (n, (count, references)) in counts.iter().zip(&references).enumerate() {
        assert!(count >= references, "cluster {n}: refcount {count}, {references} references");
        assert!(leaks == Leaks::Allowed || count == references, "cluster {n} is leaked");
    }
}
