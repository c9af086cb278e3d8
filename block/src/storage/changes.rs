//! A log of ranges that have changed, for somebody who asks again and again what is new.
//!
//! The log has bounded memory. A client that asks too rarely has to begin again, which is never wrong.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;

/// The most ranges that the log keeps: half a second of 60,000 changes a second. Each takes 16 bytes.
const KEPT: usize = 32 << 10;
/// The number of ranges without a question in between after which the log stops, since nobody listens.
const UNASKED: usize = 2 * KEPT;

/// The log. It records nothing until [`Changes::generation`] is called for the first time.
///
/// A generation is a point in the order of changes. It never goes back, and means nothing to another log.
#[derive(Default)]
pub struct Changes {
    recording: Cell<bool>,
    entries: RefCell<VecDeque<Range<u64>>>,
    /// The generation behind the last entry; the first entry has this minus the number of entries.
    next: Cell<u64>,
    /// True if the last entry belongs to a generation that was returned, and must not grow any more.
    sealed: Cell<bool>,
    /// Entries since the last question.
    unasked: Cell<usize>,
}

impl Changes {
    /// Records that a range has changed, or is about to change.
    pub fn note(&self, range: Range<u64>) {
        if !self.recording.get() || range.is_empty() {
            return;
        }
        let mut entries = self.entries.borrow_mut();
        if !self.sealed.get()
            && let Some(last) = entries.back_mut()
            && last.start <= range.end
            && range.start <= last.end
        {
            *last = last.start.min(range.start)..last.end.max(range.end);
            return;
        }
        self.unasked.set(self.unasked.get() + 1);
        if self.unasked.get() > UNASKED {
            drop(entries);
            self.forget();
            return;
        }
        if entries.len() == KEPT {
            entries.pop_front();
        }
        entries.push_back(range);
        self.sealed.set(false);
        self.next.set(self.next.get() + 1);
    }

    /// Makes every generation so far too old.
    pub fn restart(&self) {
        self.entries.borrow_mut().clear();
        self.next.set(self.next.get() + 1);
    }

    /// Stops recording and gives the memory back.
    fn forget(&self) {
        self.recording.set(false);
        self.restart();
        *self.entries.borrow_mut() = VecDeque::new();
    }

    /// Returns the current generation: a later call of [`Changes::since`] with it finds what changes from now
    /// on. Begins to record if nobody has asked for long.
    pub fn generation(&self) -> u64 {
        self.recording.set(true);
        self.unasked.set(0);
        self.sealed.set(true);
        self.next.get()
    }

    /// Returns the first range that has changed since this generation, with the generation behind it; `None`
    /// if nothing has. Fails if the log does not reach back so far.
    pub fn since(&self, generation: u64) -> Result<Option<(Range<u64>, u64)>, TooOld> {
        let entries = self.entries.borrow();
        let first = self.next.get() - entries.len() as u64;
        if !self.recording.get() || generation > self.next.get() || generation < first {
            return Err(TooOld);
        }
        Ok(entries.get((generation - first) as usize).map(|range| (range.clone(), generation + 1)))
    }
}

/// The generation is one that the log does not know, or does not know any more.
#[derive(Debug, PartialEq, Eq)]
pub struct TooOld;

#[cfg(test)]
#[path = "changes_tests.rs"]
mod tests;
