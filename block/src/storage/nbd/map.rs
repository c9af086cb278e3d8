//! The last block status that a server has sent, kept for later questions about the same range.
//!
//! A writable export changes while its status is kept. What was written counts as data from then on, which is
//! always safe to say; after zeroing or trimming, the server is asked again.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use nbd::client::Status;

use crate::storage::Extent;

/// Written ranges are marked in steps of this many bytes, which limits the number of marks in a status of
/// 1 GiB to 16,384.
const MARK: u64 = 64 << 10;

/// The content of an export from `start` on: the end of each run, and true if it is data.
#[derive(Default)]
pub(super) struct Map {
    start: u64,
    runs: Vec<(u64, bool)>,
}

impl Map {
    pub(super) fn new(start: u64, status: &[Status]) -> Self {
        let mut end = start;
        let run = |run: &Status| {
            end += u64::from(run.len);
            (end, !run.zero)
        };
        Map { start, runs: status.iter().map(run).collect() }
    }

    /// Returns the number of the run with the byte at `offset`, or the number of runs.
    fn index(&self, offset: u64) -> usize {
        self.runs.partition_point(|(end, _)| *end <= offset)
    }

    fn end(&self) -> u64 {
        self.runs.last().map_or(self.start, |(end, _)| *end)
    }

    /// Returns the run at `offset`, at most `len` bytes long. `None` if it is not known.
    pub(super) fn at(&self, offset: u64, len: u64) -> Option<Extent> {
        let (end, data) = *self.runs.get(self.index(offset)).filter(|_| self.start <= offset)?;
        Some(Extent { len: len.min(end - offset), data })
    }

    /// Makes a range count as data.
    fn fill(&mut self, range: &Range<u64>) {
        let start = (range.start - range.start % MARK).max(self.start);
        let end = range.end.next_multiple_of(MARK).min(self.end());
        if start >= end {
            return;
        }
        let (first, last) = (self.index(start), self.index(end - 1));
        if self.runs[first..=last].iter().all(|(_, data)| *data) {
            return;
        }
        let begin = first.checked_sub(1).map_or(self.start, |before| self.runs[before].0);
        let before = (begin < start).then_some((start, self.runs[first].1));
        let behind = Some(self.runs[last]).filter(|(run_end, _)| *run_end > end);
        self.runs.splice(first..=last, before.into_iter().chain([(end, true)]).chain(behind));
    }
}

/// The kept status, and what has changed since it was asked for. One question is asked at a time.
#[derive(Default)]
pub(super) struct Kept {
    map: RefCell<Map>,
    /// Number of connections that had been lost when the status was asked for.
    losses: Cell<u64>,
    /// The smallest range with all that was written since the last question.
    written: RefCell<Option<Range<u64>>>,
    /// True if something was zeroed or trimmed since the last question.
    cleared: Cell<bool>,
}

impl Kept {
    /// Returns the run at `offset`, at most `len` bytes long, if it is known; after a lost connection, the
    /// server has to be asked again.
    pub(super) fn at(&self, offset: u64, len: u64, losses: u64) -> Option<Extent> {
        self.map.borrow().at(offset, len).filter(|_| self.losses.get() == losses)
    }

    /// Must be called before the server is asked.
    pub(super) fn asks(&self, losses: u64) {
        self.map.take();
        self.losses.set(losses);
        self.written.take();
        self.cleared.set(false);
    }

    /// Keeps the answer, as far as it still holds.
    pub(super) fn keep(&self, mut map: Map) {
        if self.cleared.get() {
            return;
        }
        if let Some(written) = &*self.written.borrow() {
            map.fill(written);
        }
        self.map.replace(map);
    }

    /// Returns a guard to hold while a range is written.
    pub(super) fn writing(&self, offset: u64, len: u64) -> Changing<'_> {
        Changing { kept: self, range: offset..offset + len, clears: false }
    }

    /// Returns a guard to hold while a range is zeroed or trimmed.
    pub(super) fn clearing(&self, offset: u64, len: u64) -> Changing<'_> {
        Changing { kept: self, range: offset..offset + len, clears: true }
    }
}

/// A change of a range, which is known when this is dropped, however the change has ended.
pub(super) struct Changing<'a> {
    kept: &'a Kept,
    range: Range<u64>,
    clears: bool,
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        if self.clears {
            self.kept.map.take();
            self.kept.cleared.set(true);
            return;
        }
        self.kept.map.borrow_mut().fill(&self.range);
        let mut written = self.kept.written.borrow_mut();
        *written = Some(match written.take() {
            Some(all) => all.start.min(self.range.start)..all.end.max(self.range.end),
            None => self.range.clone(),
        });
    }
}

#[cfg(test)]
#[path = "map_tests.rs"]
mod tests;
