//! The order in which a stream copies: along the disk, near the guest's reads first, or as an earlier
//! boot read.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;

use super::Work;
use crate::Result;
use crate::turns::Turns;

/// The order of a stream's copies. Everything is copied in the end.
#[derive(Clone, Debug, Default)]
pub enum Order {
    /// From the disk's start to its end.
    #[default]
    Sequential,
    /// Ranges near the guest's recent reads before the rest.
    HotFirst,
    /// The ranges of the trace in this file before the rest. A line is `OFFSET LENGTH`, in bytes.
    Trace(String),
}

/// Takes a range that has become urgent, if there is one.
pub(crate) type Hot = Box<dyn Fn() -> Option<Range<u64>>>;

/// The ranges that are yet to be copied, in their order.
pub(crate) struct Plan {
    size: u64,
    /// The sequential part: everything below this offset was taken.
    at: Cell<u64>,
    /// The ranges before the sequential part, in this order.
    first: RefCell<VecDeque<Range<u64>>>,
    /// Takes a range near a recent read of the guest, which comes before everything else.
    hot: Option<Hot>,
}

/// A range that is to be copied next.
pub(crate) struct Next {
    pub range: Range<u64>,
    /// True if it belongs to the sequential part: everything before it was taken.
    pub sequential: bool,
}

impl Plan {
    pub(crate) fn new(size: u64, trace: Vec<Range<u64>>, hot: Option<Hot>) -> Self {
        Plan { size, at: Cell::new(0), first: RefCell::new(trace.into()), hot }
    }

    /// Starts the sequential part again from `at`.
    pub(crate) fn go_back(&self, at: u64) {
        self.at.set(at);
    }

    /// Returns the offset up to which the sequential part was taken.
    pub(crate) fn at(&self) -> u64 {
        self.at.get()
    }

    /// Returns the next range, at most `most` bytes long; `None` if none is left.
    pub(crate) async fn next(&self, work: &impl Work, most: u64) -> Result<Option<Next>> {
        // A trace may name a million ranges that are present already.
        let turns = Turns::default();
        loop {
            turns.step().await;
            if let Some(hot) = self.hot.as_ref().and_then(|take| take()) {
                self.first.borrow_mut().push_front(hot);
            }
            let Some(range) = self.first.borrow_mut().pop_front() else { break };
            let end = range.end.min(self.size);
            if let Some(found) = work.next(range.start..end, most).await? {
                self.first.borrow_mut().push_front(found.start..end);
                return Ok(Some(Next { range: found, sequential: false }));
            }
        }
        let found = work.next(self.at.get()..self.size, most).await?;
        Ok(found.map(|range| Next { range, sequential: true }))
    }

    /// Records that the range that [`Plan::next`] returned last was taken up to `end`.
    pub(crate) fn take(&self, next: &Next, end: u64) {
        if next.sequential {
            self.at.set(end);
        } else if let Some(range) = self.first.borrow_mut().front_mut() {
            range.start = end;
        }
    }
}
