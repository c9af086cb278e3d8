//! Clusters that nothing refers to any more, on their way back to the allocator, in all formats.
//!
//! A cluster is freed in memory; the next commit makes that durable; reads that began before it end; then the
//! format gives it back: its space in the host's file, and last its place, so that it is never taken anew
//! before it was punched. All of this is behind the guest's back: no request waits for it.

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

    /// Punches ranges, and lets the allocator have them.
    async fn give_back(&self, ranges: Vec<Range<u64>>);
}

/// What of an image waits to be given back.
pub(crate) struct Retired {
    quarantine: Quarantine,
    /// Whether a task gives back.
    busy: Cell<bool>,
    done: Event,
    given_back: Cell<u64>,
    /// Whether the storage punches holes, for all that is known.
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

    /// Until the answer is dropped, host clusters seen in a map stay what they are.
    pub(crate) fn reading(&self) -> Reading {
        self.quarantine.reading()
    }

    /// Takes what a commit made durable to be free, and gives back what no read can still be looking at.
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

    /// Waits until everything is given back that was freed before this call, for the reads of its time too.
    /// Must not be called by who holds a [`Reading`] of the image.
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

    /// How often something was given back.
    pub(crate) fn given_back(&self) -> u64 {
        self.given_back.get()
    }

    /// Waits until everything is given back that can be.
    pub(crate) async fn all(image: &Weak<impl Retire>) {
        Self::add(image, Vec::new());
        let Some(image) = image.upgrade() else { return };
        let this = image.retired();
        while this.busy.get() {
            this.done.wait().await;
        }
    }

    /// Whether the storage punches holes, for all that is known.
    pub(crate) fn punches(&self) -> bool {
        self.punches.get()
    }

    /// Gives a range's space in the host's file back, where that is possible.
    pub(crate) async fn punch(&self, storage: &dyn Storage, hole: &Range<u64>) {
        if self.punches.get()
            && let Err(e) = storage.discard(hole.start, hole.end - hole.start).await
            && e.kind() == ErrorKind::Unsupported
        {
            self.punches.set(false);
        }
    }
}

/// The readers of one time: all that began between two commits.
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

/// Ranges that wait for the readers of their time.
struct Waiting {
    readers: Weak<Readers>,
    ended: Rc<Event>,
    ranges: Vec<Range<u64>>,
}

/// Clusters that nothing durable refers to any more, kept until no read can still be looking at them.
#[derive(Default)]
struct Quarantine {
    /// Counts operations on host clusters.
    readers: RefCell<Rc<Readers>>,
    /// Oldest first.
    waiting: RefCell<VecDeque<Waiting>>,
}

/// Holds off the reuse of clusters that are freed while it lives.
pub(crate) struct Reading(#[allow(dead_code, reason = "counted")] Rc<Readers>);

impl Quarantine {
    /// Until the answer is dropped, host clusters seen in a map stay what they are.
    fn reading(&self) -> Reading {
        Reading(self.readers.borrow().clone())
    }

    /// Adds ranges, to which no new read finds a way.
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
        // Readers of an earlier time may know these ranges too: in order, not any.
        match waiting.front() {
            Some(first) if first.readers.strong_count() == 0 => waiting.pop_front().map(|first| first.ranges),
            _ => None,
        }
    }

    /// Notified when the readers that the oldest ranges wait for have ended; `None` if no ranges wait.
    fn readers_end(&self) -> Option<Rc<Event>> {
        let waiting = self.waiting.borrow();
        let first = waiting.front().filter(|first| first.readers.strong_count() > 0);
        first.map(|first| first.ended.clone())
    }
}

/// Pieces of a range, of `most` bytes each at the most.
pub(super) fn steps(range: Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    range.step_by(most as usize).map(move |at| at..end.min(at + most))
}

/// These ranges in order, neighbours as one.
pub(super) fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
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
