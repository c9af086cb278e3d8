//! Locks on byte ranges. Overlapping ones are granted in the order of the requests.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::changes::Changes;

struct Entry {
    range: Range<u64>,
    /// True if it belongs to a job, not to a request.
    job: bool,
    granted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Exclusive locks on ranges of one object.
///
/// Held and requested ranges are in one list, in the order of the requests; a request is granted when no
/// earlier entry overlaps it. The list is as long as there are requests in flight, which the callers bound.
#[derive(Default)]
pub struct RangeLocks {
    entries: RefCell<Vec<Rc<Entry>>>,
    /// Gets each range that was locked, when it is unlocked; those of jobs also when they are asked for.
    watcher: RefCell<Option<Rc<Changes>>>,
}

/// A locked range, unlocked when dropped.
pub struct RangeGuard {
    locks: Rc<RangeLocks>,
    entry: Rc<Entry>,
}

impl RangeLocks {
    /// Creates an empty set of locks.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Locks the range. Waits until nobody else holds an overlapping range or requested one earlier.
    pub async fn lock(self: &Rc<Self>, range: Range<u64>) -> RangeGuard {
        self.granted(self.ask(range, false)).await
    }

    /// Like [`RangeLocks::lock`], for a job: see [`RangeLocks::is_with_job`].
    pub async fn lock_for_job(self: &Rc<Self>, range: Range<u64>) -> RangeGuard {
        self.granted(self.ask(range, true)).await
    }

    async fn granted(&self, guard: RangeGuard) -> RangeGuard {
        std::future::poll_fn(|cx| {
            if guard.entry.granted.get() {
                return Poll::Ready(());
            }
            *guard.entry.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        guard
    }

    /// Locks the range if that is possible without waiting.
    pub fn try_lock(self: &Rc<Self>, range: Range<u64>) -> Option<RangeGuard> {
        // Dropping a guard that was not granted withdraws its request.
        Some(self.ask(range, false)).filter(|guard| guard.entry.granted.get())
    }

    fn ask(self: &Rc<Self>, range: Range<u64>, job: bool) -> RangeGuard {
        let granted = !self.is_locked(&range);
        if job {
            self.note(&range);
        }
        let entry = Rc::new(Entry { range, job, granted: Cell::new(granted), waker: RefCell::default() });
        self.entries.borrow_mut().push(entry.clone());
        RangeGuard { locks: self.clone(), entry }
    }

    /// Returns true if anybody holds or waits for an overlapping range.
    pub fn is_locked(&self, range: &Range<u64>) -> bool {
        self.entries.borrow().iter().any(|entry| overlap(&entry.range, range))
    }

    /// Returns the length of the first part of a range, at most `len`, and true if a job holds or waits for
    /// all of that part, false if no job does for any of it.
    pub fn first_with_job(&self, at: u64, len: u64) -> (u64, bool) {
        let (mut end, mut held) = (at + len, None);
        for Entry { range, .. } in
            self.entries.borrow().iter().map(|entry| &**entry).filter(|entry| entry.job)
        {
            if range.contains(&at) {
                held = held.max(Some(range.end));
            } else if range.start > at && !range.is_empty() {
                end = end.min(range.start);
            }
        }
        match held {
            Some(held) => (held.min(at + len) - at, true),
            None => (end - at, false),
        }
    }

    /// Has `watcher` note each range that may have changed, because it was locked; `None` ends that.
    pub fn watch(&self, watcher: Option<Rc<Changes>>) {
        *self.watcher.borrow_mut() = watcher;
    }

    fn note(&self, range: &Range<u64>) {
        if let Some(watcher) = &*self.watcher.borrow() {
            watcher.note(range.clone());
        }
    }

    /// Returns true if a job holds or waits for an overlapping range.
    pub fn is_with_job(&self, range: &Range<u64>) -> bool {
        self.entries.borrow().iter().any(|entry| entry.job && overlap(&entry.range, range))
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

impl Drop for RangeGuard {
    fn drop(&mut self) {
        let mut entries = self.locks.entries.borrow_mut();
        let Some(at) = entries.iter().position(|entry| Rc::ptr_eq(entry, &self.entry)) else { return };
        entries.remove(at);
        self.locks.note(&self.entry.range);
        for (index, entry) in entries.iter().enumerate().skip(at) {
            if !entry.granted.get()
                && overlap(&entry.range, &self.entry.range)
                && !entries[..index].iter().any(|earlier| overlap(&earlier.range, &entry.range))
            {
                entry.granted.set(true);
                if let Some(waker) = entry.waker.borrow_mut().take() {
                    waker.wake();
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "ranges_tests.rs"]
mod tests;
