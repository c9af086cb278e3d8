//! The queue of a guest's writes on their way to the target, which the guest does not wait for.
//!
//! A write is put into the queue when the source has it, while its range is still locked. Of the writes to a
//! granule, one after the other goes to the target, in the order of the queue; those that follow each other
//! on the disk go together. The queue holds as many bytes as the window has; when it is full, the guest
//! waits.
//!
//! Whoever else is about to write to the target, a copy too, waits first until the writes that were queued
//! before for the same granules have ended ([`Behind::settled`]).
//!
//! A granule of the queue has 64 KiB, whatever the bits of the mirror stand for.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::rc::Rc;

use executor::sync::{Event, Semaphore};

use crate::Buf;

/// The most writes of the target in flight.
pub(super) const WORKERS: usize = 16;
/// The bytes of the window that a write takes at least: it costs memory beside its data.
const LEAST: u64 = 4096;
/// The bytes of a granule: writes that follow each other go to the target together in one.
const GRANULE: u64 = 64 << 10;

/// A part of the window that a write has.
pub(super) struct Room {
    behind: Rc<Behind>,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.behind.used.set(self.behind.used.get() - self.bytes);
        self.behind.changed.notify();
    }
}

/// A write within one granule.
struct Entry {
    number: u64,
    offset: u64,
    data: Buf,
    /// Of all parts of one write.
    _room: Rc<Room>,
}

/// The writes to one granule.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Entry>,
    /// The number of the first write that goes to the target now.
    running: Option<u64>,
}

/// Writes that follow each other, and go to the target together.
pub(super) struct Batch {
    behind: Rc<Behind>,
    granule: u64,
    entries: Vec<Entry>,
    /// The bytes of the disk.
    pub(super) range: Range<u64>,
}

impl Batch {
    /// Their data.
    pub(super) fn data(&self) -> Buf {
        match &self.entries[..] {
            [one] => one.data.clone(),
            many => Buf::concat(many.iter().map(|entry| entry.data.clone()).collect()),
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let behind = self.behind.clone();
        let mut queues = behind.queues.borrow_mut();
        if let Some(queue) = queues.get_mut(&self.granule) {
            queue.running = None;
            match queue.waiting.front() {
                None => drop(queues.remove(&self.granule)),
                Some(next) => drop(behind.ready.borrow_mut().insert(next.number, self.granule)),
            }
        }
        drop(queues);
        behind.gone(std::mem::take(&mut self.entries));
    }
}

/// Somebody waits for all writes before this one.
struct Awaited<'a>(&'a Behind, u64);

impl<'a> Awaited<'a> {
    fn new(behind: &'a Behind, number: u64) -> Self {
        *behind.awaited.borrow_mut().entry(number).or_default() += 1;
        Awaited(behind, number)
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let mut awaited = self.0.awaited.borrow_mut();
        if let Some(waiting) = awaited.get_mut(&self.1) {
            *waiting -= 1;
            if *waiting == 0 {
                awaited.remove(&self.1);
            }
        }
        drop(awaited);
        self.0.changed.notify();
    }
}

/// See the module.
pub(super) struct Behind {
    window: Cell<u64>,
    used: Cell<u64>,
    /// By the numbers of their granules.
    queues: RefCell<BTreeMap<u64, Queue>>,
    /// The granules that have writes waiting, and none that runs, by the numbers of their first writes: the
    /// oldest is next.
    ready: RefCell<BTreeMap<u64, u64>>,
    /// The number of the next write.
    next: Cell<u64>,
    /// The writes that have not ended.
    left: RefCell<BTreeSet<u64>>,
    /// The numbers of those writes before which all are waited for, and by how many.
    awaited: RefCell<BTreeMap<u64, usize>>,
    /// The tasks that wait for room, one after the other.
    door: Rc<Semaphore>,
    pub(super) workers: Cell<usize>,
    changed: Event,
}

impl Behind {
    /// Creates a queue without a window.
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Behind {
            window: Cell::new(0),
            used: Cell::new(0),
            queues: RefCell::default(),
            ready: RefCell::default(),
            next: Cell::new(0),
            left: RefCell::default(),
            awaited: RefCell::default(),
            door: Semaphore::new(1),
            workers: Cell::new(0),
            changed: Event::new(),
        })
    }

    /// Sets the bytes that may be on their way. With 0, nothing more is queued.
    pub(super) fn set_window(&self, bytes: u64) {
        if self.window.replace(bytes) != bytes {
            self.changed.notify();
        }
    }

    /// The bytes that may be on their way.
    pub(super) fn window(&self) -> u64 {
        self.window.get()
    }

    /// The bytes that are on their way.
    pub(super) fn used(&self) -> u64 {
        self.used.get()
    }

    /// Returns true if no write is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.left.borrow().is_empty()
    }

    /// Waits for room for a write of this many bytes. Returns `None` if nothing is queued any more. No lock
    /// may be held that a copy waits for.
    pub(super) async fn room(self: &Rc<Self>, bytes: u64) -> Option<Room> {
        if self.window.get() == 0 {
            return None;
        }
        let _first = self.door.acquire(1).await;
        let bytes = bytes.max(LEAST);
        // One that is larger than the window goes alone.
        while self.window.get() > 0 && self.used.get() > 0 && self.used.get() + bytes > self.window.get() {
            self.changed.wait().await;
        }
        if self.window.get() == 0 {
            return None;
        }
        self.used.set(self.used.get() + bytes);
        Some(Room { behind: self.clone(), bytes })
    }

    /// Queues a write. Its range must be locked, and the source must have it.
    pub(super) fn push(&self, offset: u64, data: &Buf, room: &Rc<Room>) {
        let end = offset + data.len() as u64;
        let mut at = offset;
        while at < end {
            let granule = at / GRANULE;
            let stop = ((granule + 1) * GRANULE).min(end);
            let number = self.next.get();
            self.next.set(number + 1);
            self.left.borrow_mut().insert(number);
            let data = data.slice((at - offset) as usize..(stop - offset) as usize);
            let mut queues = self.queues.borrow_mut();
            let queue = queues.entry(granule).or_default();
            if queue.running.is_none() && queue.waiting.is_empty() {
                self.ready.borrow_mut().insert(number, granule);
            }
            queue.waiting.push_back(Entry { number, offset: at, data, _room: room.clone() });
            at = stop;
        }
    }

    /// Takes writes when some may go to the target. They have ended when what is returned is dropped. Returns
    /// `None` if none waits.
    pub(super) async fn next(self: &Rc<Self>) -> Option<Batch> {
        loop {
            match self.take() {
                None if self.has_work() => self.changed.wait().await,
                batch => return batch,
            }
        }
    }

    fn take(self: &Rc<Self>) -> Option<Batch> {
        loop {
            let granule = {
                let mut ready = self.ready.borrow_mut();
                let first = ready.first_entry()?;
                // Newer writes would only delay the older ones that a flush waits for.
                if self.awaited.borrow().first_key_value().is_some_and(|(awaited, _)| first.key() >= awaited)
                {
                    return None;
                }
                first.remove()
            };
            let mut queues = self.queues.borrow_mut();
            let Some(queue) = queues.get_mut(&granule).filter(|queue| queue.running.is_none()) else {
                continue;
            };
            let Some(first) = queue.waiting.pop_front() else { continue };
            queue.running = Some(first.number);
            let mut range = first.offset..first.offset + first.data.len() as u64;
            let mut entries = vec![first];
            while let Some(entry) = queue.waiting.pop_front_if(|next| next.offset == range.end) {
                range.end += entry.data.len() as u64;
                entries.push(entry);
            }
            return Some(Batch { behind: self.clone(), granule, entries, range });
        }
    }

    /// Returns true if a write waits that may go to the target now.
    pub(super) fn has_work(&self) -> bool {
        !self.ready.borrow().is_empty()
    }

    /// Records that writes have ended, or are not done any more.
    fn gone(&self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            self.left.borrow_mut().remove(&entry.number);
        }
        self.changed.notify();
    }

    /// Waits until all writes have ended that were queued before. Meanwhile those queued later wait.
    pub(super) async fn all_settled(&self) {
        let next = self.next.get();
        if self.is_empty() {
            return;
        }
        let _awaited = Awaited::new(self, next);
        while self.left.borrow().first().is_some_and(|first| *first < next) {
            self.changed.wait().await;
        }
    }

    /// Waits until the writes have ended that were queued before for the granules of a range.
    pub(super) async fn settled(&self, range: &Range<u64>) {
        let next = self.next.get();
        while self.queues_of(range, |queue| {
            let first = queue.running.or(queue.waiting.front().map(|entry| entry.number));
            first.is_some_and(|first| first < next)
        }) {
            self.changed.wait().await;
        }
    }

    /// Takes out all writes that wait, and ends the window: the target is not needed any more.
    pub(super) fn close(&self) {
        self.set_window(0);
        self.ready.borrow_mut().clear();
        let mut gone = Vec::new();
        self.queues.borrow_mut().retain(|_, queue| {
            gone.extend(queue.waiting.drain(..));
            queue.running.is_some()
        });
        self.gone(gone);
    }

    /// Returns true if `what` is true for one of the granules of a range that have writes.
    fn queues_of(&self, range: &Range<u64>, mut what: impl FnMut(&mut Queue) -> bool) -> bool {
        let (from, to) = (range.start / GRANULE, range.end.div_ceil(GRANULE));
        self.queues.borrow_mut().range_mut(from..to).any(|(_, queue)| what(queue))
    }
}

#[cfg(test)]
#[path = "behind_tests.rs"]
mod tests;
