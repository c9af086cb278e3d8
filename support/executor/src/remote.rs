//! The way into an executor from other threads.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use vmm_sys_util::eventfd::EventFd;

use crate::run::try_current;
use crate::task::{TaskKey, spawn};

type Start = Box<dyn FnOnce() + Send>;

/// A request from another thread.
pub(crate) enum Item {
    Wake(TaskKey),
    Start(Start),
}

/// Kept in the order of the requests: a thread that starts a task and then replies may rely on the task
/// to run first.
#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    closed: bool,
}

/// The state that an executor shares with other threads.
pub(crate) struct Shared {
    queue: Mutex<Queue>,
    /// Written when the queue gets an item. `None` in a simulation, which has no other threads and polls
    /// the queue itself.
    pub(crate) event: Option<EventFd>,
}

/// Locks a mutex whose holders never panic; if it is poisoned all the same, its content is still valid.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(event: Option<EventFd>) -> Arc<Self> {
        Arc::new(Shared { queue: Mutex::default(), event })
    }

    /// Queues a task: directly on the executor's own thread, else through the eventfd.
    pub(crate) fn wake(self: &Arc<Self>, key: TaskKey) {
        if let Some(inner) = try_current()
            && Arc::ptr_eq(&inner.shared, self)
        {
            inner.ready.borrow_mut().push_back(key);
            return;
        }
        lock(&self.queue).items.push_back(Item::Wake(key));
        self.signal();
    }

    fn signal(&self) {
        if let Some(event) = &self.event {
            // Fails only when the counter is full, and then it is readable already.
            let _ = event.write(1);
        }
    }

    pub(crate) fn take(&self) -> VecDeque<Item> {
        std::mem::take(&mut lock(&self.queue).items)
    }

    pub(crate) fn close(&self) {
        let rest = {
            let mut queue = lock(&self.queue);
            queue.closed = true;
            std::mem::take(&mut queue.items)
        };
        drop(rest);
    }
}

/// The executor that was asked has ended, or dropped the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the thread that was asked has ended")
    }
}

impl std::error::Error for Gone {}

/// Starts tasks on an executor from any thread.
#[derive(Clone)]
pub struct Remote {
    pub(crate) shared: Arc<Shared>,
}

impl Remote {
    /// Runs a future on the executor. `make` makes it there, because futures are not `Send`. If the
    /// executor has ended, `make` is dropped without being run.
    pub fn spawn<F: Future<Output = ()> + 'static>(&self, make: impl FnOnce() -> F + Send + 'static) {
        let start: Start = Box::new(move || {
            spawn(make());
        });
        let mut queue = lock(&self.shared.queue);
        if queue.closed {
            drop(queue);
            drop(start);
            return;
        }
        queue.items.push_back(Item::Start(start));
        drop(queue);
        self.shared.signal();
    }

    /// Runs a future on the executor and returns its result. Tasks that the future started on the
    /// caller's executor run there before the result arrives.
    pub fn call<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        make: impl FnOnce() -> F + Send + 'static,
    ) -> Reply<T> {
        self.try_call(|| Some(make()))
    }

    /// Like [`Remote::call`]; if `make` returns no future, the caller gets [`Gone`].
    pub(crate) fn try_call<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        make: impl FnOnce() -> Option<F> + Send + 'static,
    ) -> Reply<T> {
        let (sender, reply) = Reply::pair();
        let asker = try_current().map(|inner| Remote { shared: inner.shared.clone() });
        self.spawn(move || {
            let future = make();
            async move {
                let Some(future) = future else { return };
                let value = future.await;
                match asker {
                    Some(asker) => asker.spawn(move || async move { sender.send(value) }),
                    None => sender.send(value),
                }
            }
        });
        reply
    }
}

struct ReplyState<T> {
    value: Option<T>,
    closed: bool,
    waker: Option<Waker>,
}

struct ReplyShared<T> {
    state: Mutex<ReplyState<T>>,
    ready: Condvar,
}

/// The result of a call on another thread. Can be awaited, or waited for by blocking.
pub struct Reply<T>(Arc<ReplyShared<T>>);

/// The replying side of a [`Reply`]. If it is dropped without a reply, the caller gets [`Gone`].
pub(crate) struct Sender<T>(Arc<ReplyShared<T>>);

impl<T> Reply<T> {
    pub(crate) fn pair() -> (Sender<T>, Reply<T>) {
        let shared = Arc::new(ReplyShared {
            state: Mutex::new(ReplyState { value: None, closed: false, waker: None }),
            ready: Condvar::new(),
        });
        (Sender(shared.clone()), Reply(shared))
    }

    /// Blocks the calling thread until the result arrives. Must not be called on an executor's own
    /// thread.
    pub fn wait(self) -> Result<T, Gone> {
        let mut state = lock(&self.0.state);
        loop {
            if let Some(value) = state.value.take() {
                return Ok(value);
            }
            if state.closed {
                return Err(Gone);
            }
            state = self.0.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> Sender<T> {
    pub(crate) fn send(self, value: T) {
        lock(&self.0.state).value = Some(value);
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = lock(&self.0.state);
            state.closed = true;
            state.waker.take()
        };
        self.0.ready.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for Reply<T> {
    type Output = Result<T, Gone>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = lock(&self.0.state);
        if let Some(value) = state.value.take() {
            return Poll::Ready(Ok(value));
        }
        if state.closed {
            return Poll::Ready(Err(Gone));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
