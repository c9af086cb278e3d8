//! Observes a guest's reads while a stream runs: to copy first what is near them, and to record them for
//! later boots.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;

use async_trait::async_trait;

use crate::disk::filter::{Below, Filter};
use crate::{Buf, Result};

/// The size of a place, in bytes: reads in one place are near each other.
const NEAR: u64 = 1 << 20;
/// Number of recent places that are kept.
const PLACES: usize = 64;
/// The longest record, in ranges.
pub(super) const LONGEST: usize = 1 << 20;

/// Observer of a guest's reads.
pub(super) struct Watch {
    /// Recent places, in units of [`NEAR`], the newest last.
    recent: RefCell<VecDeque<u64>>,
    /// All reads in their order, neighbours joined.
    record: Option<RefCell<Vec<Range<u64>>>>,
}

impl Watch {
    pub(super) fn new(record: bool) -> Self {
        Watch { recent: RefCell::default(), record: record.then(RefCell::default) }
    }

    fn saw(&self, range: Range<u64>) {
        let place = range.start / NEAR;
        let mut recent = self.recent.borrow_mut();
        if recent.back() != Some(&place) {
            recent.retain(|other| *other != place);
            if recent.len() == PLACES {
                recent.pop_front();
            }
            recent.push_back(place);
        }
        let Some(mut record) = self.record.as_ref().map(RefCell::borrow_mut) else { return };
        if let Some(last) = record.last_mut().filter(|last| last.end == range.start) {
            last.end = range.end;
        } else if record.len() < LONGEST {
            record.push(range);
        }
    }

    /// Takes the place of the newest read, and returns its range together with the next place.
    pub(super) fn take_hot(&self) -> Option<Range<u64>> {
        let place = self.recent.borrow_mut().pop_back()?;
        Some(place * NEAR..(place + 2) * NEAR)
    }

    /// Returns the recorded reads; `None` if they are not recorded.
    pub(super) fn record(&self) -> Option<Vec<Range<u64>>> {
        self.record.as_ref().map(|record| record.borrow().clone())
    }
}

#[async_trait(?Send)]
impl Filter for Watch {
    async fn read(&self, below: Below<'_>, offset: u64, buf: Buf) -> Result<()> {
        self.saw(offset..offset + buf.len() as u64);
        below.read(offset, buf).await
    }
}
