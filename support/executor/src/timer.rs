//! Timers: futures that end at a given time of the executor's clock.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::run::{current, now};

type Slot = Rc<RefCell<Option<Waker>>>;

struct Entry {
    at: Duration,
    /// Keeps timers that are due at the same time in the order in which they were made.
    sequence: u64,
    waker: Slot,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// The pending timers of one executor, soonest first.
#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
}

impl Timers {
    fn add(&mut self, at: Duration, waker: Slot) {
        self.sequence += 1;
        self.heap.push(Reverse(Entry { at, sequence: self.sequence, waker }));
    }

    /// The due time of the soonest timer that is still awaited.
    pub(crate) fn next(&mut self) -> Option<Duration> {
        while let Some(Reverse(entry)) = self.heap.peek() {
            // The heap holds the only reference once the sleeping future was dropped.
            if Rc::strong_count(&entry.waker) > 1 {
                return Some(entry.at);
            }
            self.heap.pop();
        }
        None
    }

    /// Wakers of all timers that are due at `now`.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<Waker> {
        let mut due = Vec::new();
        while let Some(at) = self.next() {
            if at > now {
                break;
            }
            if let Some(Reverse(entry)) = self.heap.pop() {
                due.extend(entry.waker.borrow_mut().take());
            }
        }
        due
    }
}

/// Waits until [`now`] reaches `at`.
pub fn sleep_until(at: Duration) -> impl Future<Output = ()> {
    Sleep { at, waker: None }
}

/// Waits for `time`.
pub fn sleep(time: Duration) -> impl Future<Output = ()> {
    sleep_until(now().saturating_add(time))
}

struct Sleep {
    at: Duration,
    waker: Option<Slot>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if now() >= self.at {
            return Poll::Ready(());
        }
        match &self.waker {
            Some(slot) => *slot.borrow_mut() = Some(cx.waker().clone()),
            None => {
                let slot = Rc::new(RefCell::new(Some(cx.waker().clone())));
                current().timers.borrow_mut().add(self.at, slot.clone());
                self.waker = Some(slot);
            }
        }
        Poll::Pending
    }
}

/// Runs `future` for at most `time`. Returns `None`, and drops the future, if it did not end by then.
pub async fn timeout<T>(time: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut sleep = pin!(sleep(time));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(value) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(value));
        }
        sleep.as_mut().poll(cx).map(|()| None)
    })
    .await
}
