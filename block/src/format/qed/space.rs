//! The allocator of host clusters without refcounts: the file's end, and clusters that this session freed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;

/// The number of free ranges that are searched for one that fits.
const LOOK: usize = 64;

/// The allocator of one image. All offsets and lengths are multiples of the cluster size.
pub(super) struct Space {
    cluster: u64,
    /// Offset from which on nothing is in use, and everything reads as zeros.
    end: Cell<u64>,
    /// Free ranges before the end: start and end, neighbours joined.
    free: RefCell<BTreeMap<u64, u64>>,
    /// Freed ranges; the references to them are durably gone only after the next commit.
    freed: RefCell<Vec<Range<u64>>>,
}

impl Space {
    pub(super) fn new(cluster: u64, end: u64) -> Self {
        Space { cluster, end: Cell::new(end), free: RefCell::default(), freed: RefCell::default() }
    }

    pub(super) fn end(&self) -> u64 {
        self.end.get()
    }

    /// Takes `count` neighbouring clusters. Returns `None` if the file would become too long.
    pub(super) fn take(&self, count: u64) -> Option<u64> {
        let len = count * self.cluster;
        let mut free = self.free.borrow_mut();
        let found = free.iter().take(LOOK).find(|(start, end)| *end - *start >= len);
        let Some((start, end)) = found.map(|(start, end)| (*start, *end)) else {
            drop(free);
            return self.take_zeros(count);
        };
        free.remove(&start);
        if start + len < end {
            free.insert(start + len, end);
        }
        Some(start)
    }

    /// As [`Space::take`], for clusters that have to read as zeros.
    pub(super) fn take_zeros(&self, count: u64) -> Option<u64> {
        let start = self.end.get();
        let end = start.checked_add(count * self.cluster).filter(|end| *end <= i64::MAX as u64)?;
        self.end.set(end);
        Some(start)
    }

    /// Gives clusters back that no metadata refers to and nobody reads.
    pub(super) fn free_now(&self, range: Range<u64>) {
        let mut free = self.free.borrow_mut();
        let Range { mut start, mut end } = range;
        if let Some((&before, &joined)) = free.range(..start).next_back()
            && joined == start
        {
            free.remove(&before);
            start = before;
        }
        if let Some(after) = free.remove(&end) {
            end = after;
        }
        free.insert(start, end);
    }

    /// Gives clusters back once the next commit has removed the reference to them durably.
    pub(super) fn free_later(&self, range: Range<u64>) {
        self.freed.borrow_mut().push(range);
    }

    pub(super) fn take_freed(&self) -> Vec<Range<u64>> {
        self.freed.take()
    }

    pub(super) fn has_freed(&self) -> bool {
        !self.freed.borrow().is_empty()
    }

    pub(super) fn has_free(&self) -> bool {
        !self.free.borrow().is_empty()
    }

    /// Takes all free clusters, in order.
    pub(super) fn take_all(&self) -> Vec<Range<u64>> {
        self.free.take().into_iter().map(|(start, end)| start..end).collect()
    }

    /// Moves the end back to the last cluster in use, and returns it; the caller cuts the file off there.
    pub(super) fn trim(&self) -> u64 {
        let mut free = self.free.borrow_mut();
        if let Some(last) = free.last_entry()
            && *last.get() == self.end.get()
        {
            self.end.set(last.remove_entry().0);
        }
        self.end.get()
    }
}
