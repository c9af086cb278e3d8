//! Signals between the tasks of one executor. Nothing here is `Send` or takes locks.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Signals that a condition may have changed: tasks test the condition, and wait here while it does not
/// hold.
///
/// Since tasks interleave only at an `.await`, `while !condition() { event.wait().await }` loses no
/// signal.
#[derive(Default)]
pub struct Event {
    epoch: Cell<u64>,
    wakers: RefCell<Vec<Waker>>,
}

impl Event {
    /// An event that nobody waits for.
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits until the first [`Event::notify`] after this call.
    pub fn wait(&self) -> impl Future<Output = ()> + '_ {
        let epoch = self.epoch.get();
        std::future::poll_fn(move |cx| {
            if self.epoch.get() != epoch {
                return Poll::Ready(());
            }
            let mut wakers = self.wakers.borrow_mut();
            if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
    }

    /// Wakes every task that waits.
    pub fn notify(&self) {
        self.epoch.set(self.epoch.get().wrapping_add(1));
        for waker in self.wakers.take() {
            waker.wake();
        }
    }
}

struct Waiter {
    want: u64,
    granted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A counted resource (bytes, requests, or 1 for a lock), granted in the order of the requests.
pub struct Semaphore {
    free: Cell<u64>,
    total: u64,
    waiters: RefCell<VecDeque<Rc<Waiter>>>,
}

impl Semaphore {
    /// A semaphore of `total` units, all free.
    pub fn new(total: u64) -> Rc<Self> {
        Rc::new(Semaphore { free: Cell::new(total), total, waiters: RefCell::default() })
    }

    /// Waits for `want` units. A request for more than the total is granted when all units are free.
    pub async fn acquire(self: &Rc<Self>, want: u64) -> Permit {
        if let Some(permit) = self.try_acquire(want) {
            return permit;
        }
        let want = want.min(self.total);
        let waiter = Rc::new(Waiter { want, granted: Cell::new(false), waker: RefCell::default() });
        self.waiters.borrow_mut().push_back(waiter.clone());
        let mut waiting = Waiting { semaphore: self, waiter, taken: false };
        std::future::poll_fn(|cx| {
            if waiting.waiter.granted.get() {
                return Poll::Ready(());
            }
            *waiting.waiter.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        waiting.taken = true;
        Permit { semaphore: self.clone(), held: want }
    }

    /// Takes `want` units if they are free and nobody waits.
    pub fn try_acquire(self: &Rc<Self>, want: u64) -> Option<Permit> {
        let want = want.min(self.total);
        if !self.waiters.borrow().is_empty() || self.free.get() < want {
            return None;
        }
        self.free.set(self.free.get() - want);
        Some(Permit { semaphore: self.clone(), held: want })
    }

    fn release(&self, units: u64) {
        self.free.set(self.free.get() + units);
        loop {
            let next = {
                let mut waiters = self.waiters.borrow_mut();
                match waiters.front() {
                    Some(waiter) if waiter.want <= self.free.get() => waiters.pop_front(),
                    _ => None,
                }
            };
            let Some(waiter) = next else { return };
            self.free.set(self.free.get() - waiter.want);
            waiter.granted.set(true);
            if let Some(waker) = waiter.waker.take() {
                waker.wake();
            }
        }
    }
}

/// Gives back a place in the queue, or an unused grant, when the request is dropped.
struct Waiting<'a> {
    semaphore: &'a Semaphore,
    waiter: Rc<Waiter>,
    taken: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        if self.waiter.granted.get() {
            self.semaphore.release(self.waiter.want);
        } else {
            self.semaphore.waiters.borrow_mut().retain(|waiter| !Rc::ptr_eq(waiter, &self.waiter));
            // The next waiter may fit even though this one did not.
            self.semaphore.release(0);
        }
    }
}

/// Units of a [`Semaphore`], given back when dropped.
pub struct Permit {
    semaphore: Rc<Semaphore>,
    held: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.semaphore.release(self.held);
    }
}

struct Slot<T> {
    value: Option<T>,
    closed: bool,
    waker: Option<Waker>,
}

/// Sends one value to a task of the same executor. If it is dropped unsent, the receiver gets `None`.
pub struct OneSender<T>(Rc<RefCell<Slot<T>>>);

/// Receives one value from a task of the same executor.
pub struct OneReceiver<T>(Rc<RefCell<Slot<T>>>);

/// A channel for one value.
pub fn oneshot<T>() -> (OneSender<T>, OneReceiver<T>) {
    let slot = Rc::new(RefCell::new(Slot { value: None, closed: false, waker: None }));
    (OneSender(slot.clone()), OneReceiver(slot))
}

impl<T> OneSender<T> {
    /// Sends the value.
    pub fn send(self, value: T) {
        self.0.borrow_mut().value = Some(value);
    }
}

impl<T> Drop for OneSender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut slot = self.0.borrow_mut();
            slot.closed = true;
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for OneReceiver<T> {
    type Output = Option<T>;

    fn poll(self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Option<T>> {
        let mut slot = self.0.borrow_mut();
        if slot.closed {
            return Poll::Ready(slot.value.take());
        }
        slot.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
