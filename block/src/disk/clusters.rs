//! The map of a disk's clusters, for somebody who draws it: states by cells, and what has changed since.
//!
//! A *cell* is a range of a fixed power of two of bytes; there are as many as one wants to draw. The states
//! are looked up in the formats' maps when somebody asks, so that they cannot differ from them. In between,
//! only the ranges that change are recorded (`storage::changes`), while somebody asks at least now and then.
//! All that is always on is a bit for each cluster that a guest or an export has written since the last
//! switch.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::time::Duration;

use executor::sync::Semaphore;

use super::Disk;
use crate::format::Content;
use crate::image::node::Node;
use crate::storage::changes::Changes;
use crate::{Error, ErrorKind, Result};

mod bits;
mod cells;
mod written;

pub use cells::State;

use bits::Bits;
use cells::Cells;
use written::Written;

/// The most cells of one answer, and of the whole disk if the caller does not choose their size.
pub const MOST_CELLS: u64 = 1 << 20;
/// The smallest cell in bytes.
pub const SMALLEST_CELL: u64 = 512;
/// The cell of a format without clusters, in bytes, unless the disk is large.
const RAW_CELL: u64 = 64 << 10;
/// Bytes of encoded runs after which an answer ends.
const MOST_BYTES: usize = 192 << 10;
/// Lookups between two yields to the disk's other tasks: some ten microseconds.
const STEP: usize = 48;
/// Steps after which a walk rests if the disk is busy.
const BURST: u32 = 16;
/// The length of such a rest. So a walk takes a fifth of a busy thread at most.
const REST: Duration = Duration::from_millis(1);

/// A question for the map of a disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Question {
    /// A generation of an earlier answer: only cells that have changed since are wanted.
    pub since: Option<u64>,
    /// The first cell.
    pub first: u64,
    /// The number of cells; as many as possible if `None`.
    pub cells: Option<u64>,
    /// The size of a cell in bytes, a power of two of at least [`SMALLEST_CELL`]. If `None`, it is a cluster,
    /// doubled until the disk has no more than [`MOST_CELLS`] cells.
    pub cell_size: Option<u64>,
}

/// A disk's map, or what of it has changed.
#[derive(Clone, Debug)]
pub struct Map {
    /// The disk's size in bytes.
    pub size: u64,
    /// The leaf's cluster size in bytes; 1 for a format without clusters.
    pub cluster_size: u64,
    /// The size of a cell in bytes. The last cell ends with the disk.
    pub cell_size: u64,
    /// The number of cells of the whole disk.
    pub total: u64,
    /// The generation of this answer: nothing in it is older.
    pub generation: u64,
    /// True if `since` is too old or of another chain, and the answer has all cells.
    pub resync: bool,
    /// The cell at which the answer ends, if it ends before the cells that were asked for.
    pub next: Option<u64>,
    /// The runs: for each, the number of cells that are skipped since the one before, its length in cells,
    /// both as LEB128, and a byte, which is [`State::encode`].
    pub runs: Vec<u8>,
}

/// The state that a disk keeps for its map.
pub(crate) struct Clusters {
    written: RefCell<Written>,
    changes: Rc<Changes>,
    /// The chain to which `changes` belongs, and the disk's size.
    chain: RefCell<(Vec<Weak<Node>>, u64)>,
    /// One walk at a time, whoever asks: their work never adds up.
    turn: Rc<Semaphore>,
}

impl Default for Clusters {
    fn default() -> Self {
        Clusters {
            written: RefCell::default(),
            changes: Rc::default(),
            chain: RefCell::default(),
            turn: Semaphore::new(1),
        }
    }
}

impl Clusters {
    /// A guest's write to `leaf` has ended, whether or not it succeeded.
    pub(super) fn written(&self, leaf: &Node, range: Range<u64>) {
        let unit = if leaf.kind().has_metadata() { leaf.cluster_size() } else { RAW_CELL };
        // Where nothing is new, the cluster was written before, and stays what it is unless it is allocated
        // again, under a lock that notes it.
        if let Some(new) = self.written.borrow_mut().set(range, leaf.size(), unit) {
            self.changes.note(new);
        }
    }

    /// A guest has zeroed or discarded a range of `leaf`.
    pub(super) fn zeroed(&self, leaf: &Node, range: Range<u64>) {
        // A raw image is written in place, without a lock. So its next write must count as new.
        if !leaf.kind().has_metadata() {
            self.written.borrow_mut().clear(range);
        } else {
            self.written(leaf, range);
        }
    }

    /// The disk has another leaf.
    pub(super) fn switched(&self) {
        self.written.take();
    }

    /// Has the changes of this chain recorded. Generations of another chain, or of another size, become too
    /// old.
    fn follow(&self, leaf: &Rc<Node>) {
        let nodes = || std::iter::successors(Some(leaf.clone()), |node| node.backing());
        let mut chain = self.chain.borrow_mut();
        let is_same = chain.1 == leaf.size()
            && nodes().map(|node| Rc::as_ptr(&node)).eq(chain.0.iter().map(Weak::as_ptr));
        if is_same {
            return;
        }
        chain.0.iter().filter_map(Weak::upgrade).for_each(|node| node.watch(None));
        nodes().for_each(|node| node.watch(Some(self.changes.clone())));
        *chain = (nodes().map(|node| Rc::downgrade(&node)).collect(), leaf.size());
        self.changes.restart();
    }
}

impl Disk {
    /// Returns states of the disk's cells. Reads no data, works in short steps between which requests run,
    /// and rests if the disk is busy.
    ///
    /// # Errors
    /// `Invalid` for a cell size that is not allowed; errors of reading the images' tables.
    pub async fn block_map(&self, question: Question) -> Result<Map> {
        let _turn = self.clusters.turn.acquire(1).await;
        let leaf = self.leaf();
        let (size, clusters) = (leaf.size(), &self.clusters);
        clusters.follow(&leaf);
        let cell_size = cell_size(&leaf, question.cell_size)?;
        let total = size.div_ceil(cell_size);
        let generation = clusters.changes.generation();
        let first = question.first.min(total);
        let end = first.saturating_add(question.cells.unwrap_or(total)).min(total);
        let last = end.min(first + MOST_CELLS);
        let wanted = match question.since {
            Some(since) => self.changed(since, generation, first..last, cell_size).await,
            None => None,
        };
        let resync = question.since.is_some() && wanted.is_none();
        let ranges = wanted.unwrap_or_else(|| std::iter::once(first..last).collect());
        let mut cells = Cells::new(first, cell_size, size);
        let mut pace = Pace::new(self);
        let mut next = None;
        for range in ranges {
            if let Some(at) = self.walk(&leaf, &mut cells, range, &mut pace).await? {
                next = Some(at);
                break;
            }
        }
        let next = next.or((last < end).then_some(last));
        let runs = cells.into_runs();
        Ok(Map { size, cluster_size: leaf.cluster_size(), cell_size, total, generation, resync, next, runs })
    }

    /// Returns the cells of `window` that have changed between two generations, in order; `None` if that is
    /// not known.
    async fn changed(
        &self,
        since: u64,
        generation: u64,
        window: Range<u64>,
        cell_size: u64,
    ) -> Option<Vec<Range<u64>>> {
        let len = window.end - window.start;
        let mut bits = Bits::default();
        bits.grow(len);
        let mut pace = Pace::new(self);
        let mut at = since;
        while let Some((range, next)) = self.clusters.changes.since(at).ok()? {
            if at >= generation {
                break;
            }
            at = next;
            let from = (range.start / cell_size).max(window.start);
            let to = range.end.div_ceil(cell_size).min(window.end);
            if from < to {
                bits.set(from - window.start..to - window.start);
            }
            pace.step(1).await;
        }
        let mut found: Vec<Range<u64>> = Vec::new();
        let mut at = 0;
        while at < len {
            let (is_set, end) = bits.run(at, len);
            if is_set {
                found.push(window.start + at..window.start + end);
            }
            at = end;
            pace.step(1).await;
        }
        Some(found)
    }

    /// Looks up the cells of a range. Returns the first one that is left out, if the answer is full before.
    async fn walk(
        &self,
        leaf: &Rc<Node>,
        cells: &mut Cells,
        range: Range<u64>,
        pace: &mut Pace<'_>,
    ) -> Result<Option<u64>> {
        let unit = cells.cell_size();
        // The disk may have become larger meanwhile, but the answer is about the size that it had.
        let (mut at, end) = (range.start * unit, range.end.saturating_mul(unit).min(cells.size()));
        while at < end {
            if at.is_multiple_of(unit) && cells.len() >= MOST_BYTES {
                return Ok(Some(at / unit));
            }
            let (state, len) = self.state(leaf, at, end - at).await?;
            cells.add(at, len, state);
            at += len;
            pace.step(1 + state.depth()).await;
        }
        Ok(None)
    }

    /// Returns the state at an offset, and the number of bytes for which it holds, at most `len`.
    async fn state(&self, leaf: &Rc<Node>, at: u64, len: u64) -> Result<(State, u64)> {
        let run = leaf.format().map(at, len).await?;
        let (is_data, len) = match run.content {
            Content::Data(host) if !leaf.kind().has_metadata() => {
                let extent = leaf.storage().map(host, run.len).await?;
                (extent.data, extent.len)
            }
            Content::Data(_) | Content::Compressed(..) => (true, run.len),
            Content::Zero => (false, run.len),
            Content::Absent => {
                let (len, is_with_job) = leaf.first_with_job(at, run.len);
                if is_with_job {
                    return Ok((State::Populating, len));
                }
                let Some(backing) = leaf.backing() else { return Ok((State::Nowhere, len)) };
                let run = backing.map(at, len).await?;
                let state = if run.allocated { State::Absent(run.depth + 1) } else { State::Nowhere };
                return Ok((state, run.len.min(len)));
            }
        };
        if !is_data {
            return Ok((State::Zero, len));
        }
        let (is_written, len) = self.clusters.written.borrow().run(at, len);
        Ok((if is_written { State::Written } else { State::Data }, len))
    }
}

/// The size of a cell: what was asked for, or what fits the disk.
fn cell_size(leaf: &Node, wanted: Option<u64>) -> Result<u64> {
    if let Some(size) = wanted {
        if size.is_power_of_two() && size >= SMALLEST_CELL {
            return Ok(size);
        }
        let text = format!("cell-size {size} is not a power of two of at least {SMALLEST_CELL}");
        return Err(Error::new(ErrorKind::Invalid, text));
    }
    let mut size = if leaf.kind().has_metadata() { leaf.cluster_size() } else { RAW_CELL };
    while leaf.size().div_ceil(size) > MOST_CELLS {
        size *= 2;
    }
    Ok(size)
}

/// The pace of a walk: yields often, and rests while the disk is busy.
struct Pace<'a> {
    disk: &'a Disk,
    lookups: usize,
    steps: u32,
}

impl<'a> Pace<'a> {
    fn new(disk: &'a Disk) -> Self {
        Pace { disk, lookups: 0, steps: 0 }
    }

    /// Counts lookups that were done.
    async fn step(&mut self, lookups: usize) {
        self.lookups += lookups;
        if self.lookups < STEP {
            return;
        }
        self.lookups = 0;
        self.steps += 1;
        if self.steps >= BURST {
            self.steps = 0;
            if self.disk.is_busy(10 * REST) {
                executor::sleep(REST).await;
                return;
            }
        }
        executor::yield_now().await;
    }
}

#[cfg(test)]
#[path = "clusters_tests.rs"]
pub(crate) mod tests;
