//! The granules of a disk that a job copies beside the guest's writes: those that are left, the locks that
//! order copies and writes, and the number of the guest's requests in the job's filter. The replica of a
//! mirror and the filter of a backup have this in common; what a write does to a granule is theirs.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use executor::sync::Event;

use crate::image::node::Node;
use crate::storage::ranges::RangeLocks;
use crate::{Error, ErrorKind, Result};

pub(super) mod bitmap;

use bitmap::Bitmap;

/// The smallest granule in bytes.
const SMALLEST: u64 = 64 << 10;
/// The most granules: 32 MiB of bits.
const MOST: u64 = 1 << 28;
/// The largest hole that is copied at once, in bytes: a target without fast zeros writes them, and the
/// guest's writes there wait.
pub(super) const LARGEST_HOLE: u64 = 16 << 20;

/// Fails if a disk of `size` bytes would have too many granules of `granularity` bytes.
pub(super) fn check_granularity(size: u64, granularity: u64) -> Result<()> {
    if size / granularity <= MOST {
        return Ok(());
    }
    let least = (size / MOST).next_power_of_two();
    let text =
        format!("Parameter 'granularity' is too small for a disk of {size} bytes: give {least} or more");
    Err(Error::new(ErrorKind::Invalid, text))
}

/// See the module.
pub(super) struct Granules {
    source: Rc<Node>,
    granule: u64,
    todo: RefCell<Bitmap>,
    /// One domain for the copier and for the guest's writes.
    pub(super) locks: Rc<RangeLocks>,
    /// The first error that a request of the guest has met, and that concerns the job alone.
    failed: RefCell<Option<Error>>,
    changed: Event,
    /// Copies in flight.
    copying: Cell<u64>,
    inside: Cell<u64>,
    left: Event,
}

/// A copy of granules in flight.
pub(super) struct Copying<'a>(&'a Granules);

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        self.0.copying.set(self.0.copying.get() - 1);
    }
}

/// A request of the guest in the job's filter.
pub(super) struct Inside<'a>(&'a Granules);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.set(self.0.inside.get() - 1);
        self.0.left.notify();
    }
}

impl Granules {
    /// Creates the granules of `source`, of which nothing is to be copied yet. They have `granularity` bytes;
    /// if that is not given, they are as large as the clusters of the target, or larger.
    pub(super) fn new(source: Rc<Node>, cluster_size: u64, granularity: Option<u64>) -> Self {
        let mut granule = granularity.unwrap_or(SMALLEST.max(cluster_size));
        while source.size() / granule > MOST {
            granule *= 2;
        }
        let todo = RefCell::new(Bitmap::new(source.size(), granule));
        Granules {
            source,
            granule,
            todo,
            locks: RangeLocks::new(),
            failed: RefCell::default(),
            changed: Event::new(),
            copying: Cell::new(0),
            inside: Cell::new(0),
            left: Event::new(),
        }
    }

    /// The image that is copied.
    pub(super) fn source(&self) -> &Rc<Node> {
        &self.source
    }

    /// The size of the image in bytes.
    pub(super) fn size(&self) -> u64 {
        self.source.size()
    }

    /// The size of a granule in bytes; a power of two.
    pub(super) fn granule(&self) -> u64 {
        self.granule
    }

    /// Returns a bitmap of the same granules without a bit set.
    pub(super) fn none(&self) -> Bitmap {
        Bitmap::new(self.size(), self.granule)
    }

    /// Has all granules copied that a range touches, again if they were copied before.
    pub(super) fn mark(&self, range: &Range<u64>) {
        self.todo.borrow_mut().insert(range);
        self.changed.notify();
    }

    /// Has these granules copied, too.
    pub(super) fn mark_all(&self, granules: &Bitmap) {
        self.todo.borrow_mut().merge(granules);
        self.changed.notify();
    }

    /// Takes the granules that a range touches from those that are to be copied.
    pub(super) fn unmark(&self, range: &Range<u64>) {
        self.todo.borrow_mut().remove(range);
    }

    /// Counts a copy as in flight, until what is returned is dropped.
    pub(super) fn copying(&self) -> Copying<'_> {
        self.copying.set(self.copying.get() + 1);
        Copying(self)
    }

    /// Returns true if nothing is to be copied, and no copy is in flight.
    pub(super) fn is_settled(&self) -> bool {
        self.is_done() && self.copying.get() == 0
    }

    /// Returns true if nothing is to be copied.
    pub(super) fn is_done(&self) -> bool {
        self.todo.borrow().count() == 0
    }

    /// Bytes that are still to be copied.
    pub(super) fn remaining(&self) -> u64 {
        (self.todo.borrow().count() * self.granule).min(self.size())
    }

    /// The range, widened to whole granules.
    pub(super) fn whole(&self, range: &Range<u64>) -> Range<u64> {
        let end = range.end.next_multiple_of(self.granule).min(self.size());
        range.start - range.start % self.granule..end
    }

    /// Returns the first part of a range that is to be copied, at most `most` bytes of it, or one granule if
    /// that is more.
    pub(super) fn next(&self, range: &Range<u64>, most: u64) -> Option<Range<u64>> {
        let found = self.todo.borrow().next(range, most)?;
        // A granule may begin before the range, and the last one ends behind the disk.
        Some(found.start.max(range.start)..found.end.min(range.end).min(self.size()))
    }

    /// The first part of a range whose granules are all to be copied, or all done; true if they are to be
    /// copied.
    pub(super) fn first_part(&self, range: Range<u64>) -> (Range<u64>, bool) {
        let todo = self.todo.borrow();
        let is_todo = todo.contains(range.start);
        let mut end = range.start - range.start % self.granule + self.granule;
        while end < range.end && todo.contains(end) == is_todo {
            end += self.granule;
        }
        (range.start..end.min(range.end), is_todo)
    }

    /// The bytes of a range that are in granules which are not to be copied.
    pub(super) fn done_in(&self, range: &Range<u64>) -> u64 {
        let (mut at, mut done) = (range.start, 0);
        while at < range.end {
            let (part, is_todo) = self.first_part(at..range.end);
            at = part.end;
            done += if is_todo { 0 } else { part.end - part.start };
        }
        done
    }

    /// Returns for how many bytes from `offset` on, at most `len`, the source has data, or else has none.
    pub(super) async fn look(&self, offset: u64, len: u64) -> Result<(u64, bool)> {
        let run = self.source.map(offset, len).await.map_err(Error::of_source)?;
        Ok((run.len, run.data))
    }

    /// Records an error that a request of the guest has met, unless there is an earlier one.
    pub(super) fn note(&self, error: Error) {
        self.failed.borrow_mut().get_or_insert(error);
        self.changed.notify();
    }

    /// The first error that was recorded.
    pub(super) fn error(&self) -> Option<Error> {
        self.failed.borrow().clone()
    }

    /// Takes the error that was recorded.
    pub(super) fn take_error(&self) -> Option<Error> {
        self.failed.take()
    }

    /// Waits until something comes to be copied, or an error is recorded.
    pub(super) async fn changed(&self) {
        self.changed.wait().await;
    }

    /// Counts a request of the guest as in the filter, until what is returned is dropped.
    pub(super) fn enter(&self) -> Inside<'_> {
        self.inside.set(self.inside.get() + 1);
        Inside(self)
    }

    /// Waits until no request of the guest is in the filter. None may come any more.
    pub(super) async fn idle(&self) {
        while self.inside.get() > 0 {
            self.left.wait().await;
        }
    }
}
