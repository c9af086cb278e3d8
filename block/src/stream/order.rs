//! In what order a stream copies: along the disk, what the guest reads first, or as an earlier boot read.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use super::scope::Scope;
use super::watch::Watch;
use crate::Result;
use crate::turns::Turns;

/// The order of a stream's copies. Whatever it is, everything is copied in the end.
#[derive(Clone, Debug, Default)]
pub enum Order {
    /// From the disk's start to its end.
    #[default]
    Sequential,
    /// What lies near the guest's recent reads before the rest.
    HotFirst,
    /// The ranges of a trace before the rest: the file's name. A line is `OFFSET LENGTH`, in bytes.
    Trace(String),
}

/// Where a stream goes on.
pub(super) struct Plan {
    size: u64,
    /// The sequential part: below here, all was taken.
    at: Cell<u64>,
    /// Before the sequential part, in this order.
    first: RefCell<VecDeque<Range<u64>>>,
    /// Whose recent reads come before everything else.
    hot: Option<Rc<Watch>>,
}

/// An absent range that is to be copied next.
pub(super) struct Next {
    pub absent: Range<u64>,
    /// Whether everything before it was taken.
    pub sequential: bool,
}

impl Plan {
    pub(super) fn new(size: u64, trace: Vec<Range<u64>>, hot: Option<Rc<Watch>>) -> Self {
        Plan { size, at: Cell::new(0), first: RefCell::new(trace.into()), hot }
    }

    /// Starts the sequential part again from `at`.
    pub(super) fn go_back(&self, at: u64) {
        self.at.set(at);
    }

    /// The end of what was taken along the disk.
    pub(super) fn at(&self) -> u64 {
        self.at.get()
    }

    /// The next absent range, no longer than `most`; `None` where there is none left.
    pub(super) async fn next(&self, scope: &Scope, most: u64) -> Result<Option<Next>> {
        // A trace may name a million places that are present.
        let turns = Turns::default();
        loop {
            turns.step().await;
            if let Some(hot) = self.hot.as_ref().and_then(|watch| watch.take_hot()) {
                self.first.borrow_mut().push_front(hot);
            }
            let Some(range) = self.first.borrow_mut().pop_front() else { break };
            let end = range.end.min(self.size);
            if let Some(absent) = scope.next_absent(range.start..end, most).await? {
                self.first.borrow_mut().push_front(absent.start..end);
                return Ok(Some(Next { absent, sequential: false }));
            }
        }
        let absent = scope.next_absent(self.at.get()..self.size, most).await?;
        Ok(absent.map(|absent| Next { absent, sequential: true }))
    }

    /// Says that the range that [`Plan::next`] answered last was taken up to `end`.
    pub(super) fn take(&self, next: &Next, end: u64) {
        if next.sequential {
            self.at.set(end);
        } else if let Some(range) = self.first.borrow_mut().front_mut() {
            range.start = end;
        }
    }
}
