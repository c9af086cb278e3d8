//! File descriptors whose readiness tasks can await.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberId, SubscriberOps};
use vmm_sys_util::epoll::EventSet;

use crate::run::current;

/// One direction of one descriptor.
#[derive(Default)]
struct Direction {
    ready: Cell<bool>,
    wakers: RefCell<Vec<Waker>>,
}

impl Direction {
    fn set_ready(&self) {
        self.ready.set(true);
        for waker in self.wakers.borrow_mut().drain(..) {
            waker.wake();
        }
    }

    async fn wait(&self) {
        std::future::poll_fn(|cx| {
            if self.ready.get() {
                return Poll::Ready(());
            }
            let mut wakers = self.wakers.borrow_mut();
            if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

#[derive(Default)]
struct Interest {
    read: Direction,
    write: Direction,
}

/// The one event-manager subscriber of an executor: it turns events into wakes and nothing else.
#[derive(Default)]
pub(crate) struct Dispatch {
    interests: Vec<Option<Rc<Interest>>>,
}

impl MutEventSubscriber for Dispatch {
    fn init(&mut self, _ops: &mut EventOps) {}

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        let Some(Some(interest)) = self.interests.get(events.data() as usize) else { return };
        let set = events.event_set();
        let broken = EventSet::ERROR | EventSet::HANG_UP;
        if set.intersects(EventSet::IN | EventSet::READ_HANG_UP | broken) {
            interest.read.set_ready();
        }
        if set.intersects(EventSet::OUT | broken) {
            interest.write.set_ready();
        }
    }
}

/// The event loop of an executor on real descriptors.
pub(crate) struct Reactor {
    manager: EventManager<Dispatch>,
    id: SubscriberId,
}

fn error(e: event_manager::Error) -> io::Error {
    match e {
        event_manager::Error::Epoll(errno) => io::Error::from_raw_os_error(errno.errno()),
        other => io::Error::other(format!("{other:?}")),
    }
}

impl Reactor {
    pub(crate) fn new() -> io::Result<Self> {
        let mut manager = EventManager::new().map_err(error)?;
        let id = manager.add_subscriber(Dispatch::default());
        Ok(Reactor { manager, id })
    }

    /// Waits for events for at most `milliseconds` (-1: without limit) and wakes the tasks that wait for
    /// them.
    pub(crate) fn wait(&mut self, milliseconds: i32) -> io::Result<()> {
        match self.manager.run_with_timeout(milliseconds).map_err(error) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            other => other.map(drop),
        }
    }

    fn add(&mut self, fd: RawFd, set: EventSet, interest: Rc<Interest>) -> io::Result<u32> {
        let interests = &mut self.manager.subscriber_mut(self.id).map_err(error)?.interests;
        let slot = interests.iter().position(Option::is_none).unwrap_or_else(|| {
            interests.push(None);
            interests.len() - 1
        });
        interests[slot] = Some(interest);
        let token = slot as u32;
        let set = set | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        let added = self
            .manager
            .event_ops(self.id)
            .and_then(|mut ops| ops.add(Events::with_data_raw(fd, token, set)));
        if let Err(e) = added {
            self.forget(token);
            return Err(error(e));
        }
        Ok(token)
    }

    fn remove(&mut self, fd: RawFd, token: u32) {
        let set = EventSet::empty();
        let removed = self
            .manager
            .event_ops(self.id)
            .and_then(|mut ops| ops.remove(Events::with_data_raw(fd, token, set)));
        if let Err(e) = removed {
            tracing::warn!(fd, "removing a descriptor from the event loop: {e:?}");
        }
        self.forget(token);
    }

    fn forget(&mut self, token: u32) {
        if let Ok(dispatch) = self.manager.subscriber_mut(self.id)
            && let Some(slot) = dispatch.interests.get_mut(token as usize)
        {
            *slot = None;
        }
    }
}

/// A descriptor registered, edge-triggered, with the event loop of the executor that runs the caller. It
/// must be non-blocking if it is used through [`AsyncFd::read_io`] or [`AsyncFd::write_io`].
pub struct AsyncFd<T: AsRawFd> {
    inner: Option<T>,
    interest: Rc<Interest>,
    token: u32,
}

impl<T: AsRawFd> AsyncFd<T> {
    /// Registers `inner`.
    ///
    /// # Errors
    /// The error of `epoll_ctl`: `EPERM` for a regular file, which is always ready and cannot be
    /// awaited.
    ///
    /// # Panics
    /// Outside a task of a real executor: a simulation has no descriptors.
    pub fn new(inner: T) -> io::Result<Self> {
        Self::with(inner, EventSet::IN | EventSet::OUT)
    }

    /// Like [`AsyncFd::new`], for a descriptor that is only read from: events for writing wake nobody.
    /// An eventfd, or a ring whose completions were taken already, reports one after each use, which
    /// would end a wait for nothing.
    ///
    /// # Errors
    /// As [`AsyncFd::new`].
    ///
    /// # Panics
    /// As [`AsyncFd::new`].
    pub fn for_reading(inner: T) -> io::Result<Self> {
        Self::with(inner, EventSet::IN)
    }

    fn with(inner: T, set: EventSet) -> io::Result<Self> {
        let interest = Rc::new(Interest::default());
        let token =
            current().with_reactor(|reactor| reactor.add(inner.as_raw_fd(), set, interest.clone()))?;
        Ok(AsyncFd { inner: Some(inner), interest, token })
    }

    /// The descriptor.
    pub fn get(&self) -> &T {
        // Taken only by `drop` and `into_inner`, which end the value.
        self.inner.as_ref().expect("present until dropped")
    }

    /// Waits until the first event for reading since the last [`AsyncFd::clear_readable`].
    pub async fn readable(&self) {
        self.interest.read.wait().await
    }

    /// Waits until the first event for writing since the descriptor last took no more.
    pub async fn writable(&self) {
        self.interest.write.wait().await
    }

    /// Forgets that the descriptor was readable. An eventfd that is awaited edge by edge needs no
    /// `read`: each write to it is a new edge.
    pub fn clear_readable(&self) {
        self.interest.read.ready.set(false);
    }

    /// Repeats a non-blocking read-like operation until it does something other than `WouldBlock`.
    pub async fn read_io<R>(&self, operation: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        self.io(&self.interest.read, operation).await
    }

    /// Repeats a non-blocking write-like operation until it does something other than `WouldBlock`.
    pub async fn write_io<R>(&self, operation: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        self.io(&self.interest.write, operation).await
    }

    async fn io<R>(
        &self,
        direction: &Direction,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        loop {
            match operation(self.get()) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    // Tried first and awaited afterwards, so that an edge before this call is not lost.
                    direction.ready.set(false);
                    // No edge can be missed between the attempt and this point: only this thread runs
                    // the event loop, and not in between.
                    direction.wait().await;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Takes the descriptor back out of the event loop.
    pub fn into_inner(mut self) -> T {
        self.deregister();
        self.inner.take().expect("present until dropped")
    }

    fn deregister(&self) {
        let fd = self.get().as_raw_fd();
        if let Some(inner) = crate::run::try_current() {
            inner.with_reactor(|reactor| reactor.remove(fd, self.token));
        }
    }
}

impl<T: AsRawFd> Drop for AsyncFd<T> {
    fn drop(&mut self) {
        if self.inner.is_some() {
            self.deregister();
        }
    }
}
