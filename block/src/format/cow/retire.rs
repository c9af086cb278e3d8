//! Clusters that nothing refers to any more, on their way back to the allocator, in all formats.
//!
//! A cluster is freed in memory, the next commit makes that durable, and the reads that began before it
//! end. Then the format gives back the cluster's space in the host's file, and last its place, so that it
//! is never allocated again before it was punched. All of this happens in the background: a request waits
//! for it only if it finds no space.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::{Rc, Weak};

use executor::sync::Event;

use crate::ErrorKind;
use crate::storage::Storage;

/// An image whose freed clusters come back.
pub(crate) trait Retire: 'static {
    fn retired(&self) -> &Retired;

    /// Punches ranges, and returns them to the allocator.
    async fn give_back(&self, ranges: Vec<Range<u64>>);
}

/// The clusters of an image that wait to be given back.
pub(crate) struct Retired {
    quarantine: Quarantine,
    /// True while a task gives clusters back.
    busy: Cell<bool>,
    done: Event,
    given_back: Cell<u64>,
    /// True until the storage turns out not to punch holes.
    punches: Cell<bool>,
}

impl Retired {
    pub(crate) fn new() -> Self {
        Retired {
            quarantine: Quarantine::default(),
            busy: Cell::new(false),
            done: Event::new(),
            given_back: Cell::new(0),
            punches: Cell::new(true),
        }
    }

    /// Until the returned value is dropped, host clusters seen in a map are neither given back nor reused.
    pub(crate) fn reading(&self) -> Reading {
        self.quarantine.reading()
    }

    /// Adds ranges whose freeing a commit has made durable, and gives back those that no read can still
    /// refer to.
    pub(crate) fn add(image: &Weak<impl Retire>, freed: Vec<Range<u64>>) {
        let Some(image) = image.upgrade() else { return };
        let this = image.retired();
        this.quarantine.add(freed);
        if this.busy.get() {
            return;
        }
        let Some(first) = this.quarantine.take() else { return };
        this.busy.set(true);
        executor::spawn(async move {
            let mut next = Some(first);
            while let Some(ranges) = next {
                image.give_back(ranges).await;
                image.retired().given_back.update(|times| times + 1);
                next = image.retired().quarantine.take();
            }
            image.retired().busy.set(false);
            image.retired().done.notify();
        });
    }

    /// Waits until everything that was freed before this call is given back, also what current reads hold
    /// back. Must not be called while holding a [`Reading`] of the image.
    pub(crate) async fn drain(image: &Weak<impl Retire>) {
        Self::all(image).await;
        let waiting = image.upgrade().map_or(0, |image| image.retired().quarantine.waiting.borrow().len());
        for _ in 0..waiting {
            let ended = image.upgrade().and_then(|image| image.retired().quarantine.readers_end());
            let Some(ended) = ended else { return };
            ended.wait().await;
            Self::all(image).await;
        }
    }

    /// The number of times that clusters were given back.
    pub(crate) fn given_back(&self) -> u64 {
        self.given_back.get()
    }

    /// Waits until everything that can be given back now is given back.
    pub(crate) async fn all(image: &Weak<impl Retire>) {
        Self::add(image, Vec::new());
        let Some(image) = image.upgrade() else { return };
        let this = image.retired();
        while this.busy.get() {
            this.done.wait().await;
        }
    }

    /// Returns false once the storage has turned out not to punch holes.
    pub(crate) fn punches(&self) -> bool {
        self.punches.get()
    }

    /// Gives a range's space in the host's file back, if possible.
    pub(crate) async fn punch(&self, storage: &dyn Storage, hole: &Range<u64>) {
        if self.punches.get()
            && let Err(e) = storage.discard(hole.start, hole.end - hole.start).await
            && e.kind() == ErrorKind::Unsupported
        {
            self.punches.set(false);
        }
    }
}

/// The readers of one epoch: all that began between two commits.
#[derive(Default)]
struct Readers {
    /// Notified when the last of them has ended.
    ended: Rc<Event>,
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.ended.notify();
    }
}

/// Ranges that wait for the readers of their epoch.
struct Waiting {
    readers: Weak<Readers>,
    ended: Rc<Event>,
    ranges: Vec<Range<u64>>,
}

/// Clusters that nothing durable refers to any more, kept until no read can still refer to them.
#[derive(Default)]
struct Quarantine {
    /// The readers of the current epoch.
    readers: RefCell<Rc<Readers>>,
    /// Oldest first.
    waiting: RefCell<VecDeque<Waiting>>,
}

/// While it lives, clusters that are freed are not reused.
pub(crate) struct Reading(#[allow(dead_code, reason = "counted")] Rc<Readers>);

impl Quarantine {
    /// Until the returned value is dropped, host clusters seen in a map are neither given back nor reused.
    fn reading(&self) -> Reading {
        Reading(self.readers.borrow().clone())
    }

    /// Adds ranges that no new read can find.
    fn add(&self, ranges: Vec<Range<u64>>) {
        if !ranges.is_empty() {
            let readers = self.readers.take();
            let waiting = Waiting { readers: Rc::downgrade(&readers), ended: readers.ended.clone(), ranges };
            self.waiting.borrow_mut().push_back(waiting);
        }
    }

    /// Takes ranges that may be used again.
    fn take(&self) -> Option<Vec<Range<u64>>> {
        let mut waiting = self.waiting.borrow_mut();
        // In order: readers of an older epoch may still refer to these ranges too.
        match waiting.front() {
            Some(first) if first.readers.strong_count() == 0 => waiting.pop_front().map(|first| first.ranges),
            _ => None,
        }
    }

    /// Returns the event for the end of the readers that the oldest ranges wait for; `None` if there are
    /// no such readers.
    fn readers_end(&self) -> Option<Rc<Event>> {
        let waiting = self.waiting.borrow();
        let first = waiting.front().filter(|first| first.readers.strong_count() > 0);
        first.map(|first| first.ended.clone())
    }
}

/// Splits a range into pieces of at most `most` bytes.
pub(in crate::format) fn steps(range: Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    range.step_by(most as usize).map(move |at| at..end.min(at + most))
}

/// Returns these ranges in order, neighbours joined.
pub(in crate::format) fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let joins = next.start <= last.end;
        if joins {
            last.end = last.end.max(next.end);
        }
        joins
    });
    ranges
}
