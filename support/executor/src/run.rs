//! The executor itself: the ready queue, the loop, and the clock.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use seeded::Random;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::fd::{AsyncFd, Reactor};
use crate::handle::Values;
use crate::pool::Pool;
use crate::remote::{Item, Remote, Shared};
use crate::sync::oneshot;
use crate::task::{TaskKey, Tasks, spawn};
use crate::timer::Timers;

enum Mode {
    Real { reactor: RefCell<Reactor>, start: Instant },
    Simulated { now: Cell<Duration>, random: RefCell<Random> },
}

pub(crate) struct Inner {
    pub(crate) tasks: Tasks,
    pub(crate) ready: RefCell<VecDeque<TaskKey>>,
    pub(crate) timers: RefCell<Timers>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Pool,
    pub(crate) values: Values,
    before_wait: RefCell<Vec<Rc<dyn Fn()>>>,
    /// Batches run since the event loop was last polled.
    batches_since_poll: Cell<u32>,
    mode: Mode,
}

/// The number of batches after which the event loop is polled, even if more tasks are ready.
const MAX_BATCHES_SINCE_POLL: u32 = 8;

thread_local! {
    static CURRENT: RefCell<Vec<Rc<Inner>>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn try_current() -> Option<Rc<Inner>> {
    // Fails if the thread-local is gone: a destructor of another thread-local woke a task at thread
    // exit.
    CURRENT.try_with(|current| current.borrow().last().cloned()).ok().flatten()
}

pub(crate) fn current() -> Rc<Inner> {
    try_current().expect("called outside a task of an executor")
}

/// Marks an executor as the current one of this thread while it lives.
struct Enter;

impl Enter {
    fn new(inner: &Rc<Inner>) -> Self {
        CURRENT.with(|current| current.borrow_mut().push(inner.clone()));
        Enter
    }
}

impl Drop for Enter {
    fn drop(&mut self) {
        CURRENT.with(|current| current.borrow_mut().pop());
    }
}

/// Time since the executor was made; virtual in a simulation.
pub fn now() -> Duration {
    match &current().mode {
        Mode::Real { start, .. } => start.elapsed(),
        Mode::Simulated { now, .. } => now.get(),
    }
}

/// Returns true if the current executor is a simulation, and false outside any executor.
pub fn is_simulated() -> bool {
    try_current().is_some_and(|inner| matches!(inner.mode, Mode::Simulated { .. }))
}

/// A random number; in a simulation it is drawn from the seed.
pub fn random() -> u64 {
    match &current().mode {
        Mode::Simulated { random, .. } => random.borrow_mut().next_u64(),
        Mode::Real { .. } => {
            use std::hash::{BuildHasher, Hasher};
            std::collections::hash_map::RandomState::new().build_hasher().finish()
        }
    }
}

/// A handle to the current executor for other threads.
pub fn remote() -> Remote {
    Remote { shared: current().shared.clone() }
}

/// Calls `hook` each time before the current executor waits for events, when all ready tasks have run. A
/// hook can submit batched work to the kernel there. If it makes tasks ready, the wait is skipped.
pub fn before_wait(hook: impl Fn() + 'static) {
    current().before_wait.borrow_mut().push(Rc::new(hook));
}

impl Inner {
    pub(crate) fn with_reactor<T>(&self, f: impl FnOnce(&mut Reactor) -> T) -> T {
        match &self.mode {
            Mode::Real { reactor, .. } => f(&mut reactor.borrow_mut()),
            Mode::Simulated { .. } => panic!("a simulation has no file descriptors"),
        }
    }

    fn take_remote(&self) {
        for item in self.shared.take() {
            match item {
                Item::Wake(key) => self.ready.borrow_mut().push_back(key),
                Item::Start(start) => start(),
            }
        }
    }

    fn next_ready(&self) -> Option<TaskKey> {
        let mut ready = self.ready.borrow_mut();
        match &self.mode {
            Mode::Real { .. } => ready.pop_front(),
            Mode::Simulated { random, .. } => {
                let count = ready.len();
                if count == 0 {
                    return None;
                }
                ready.swap_remove_back((random.borrow_mut().next_u64() % count as u64) as usize)
            }
        }
    }

    fn run_ready(&self) {
        // Tasks that become ready during this batch run in the next one, so that I/O is never starved.
        let batch = self.ready.borrow().len();
        for _ in 0..batch {
            let Some(key) = self.next_ready() else { break };
            self.tasks.poll(key);
        }
    }

    /// Runs hooks, events and timers. Returns false if nothing can ever happen again, which only a
    /// simulation can know.
    fn wait(&self) -> io::Result<bool> {
        let hooks = self.before_wait.borrow().clone();
        for hook in hooks {
            hook();
        }
        let idle = self.ready.borrow().is_empty();
        match &self.mode {
            Mode::Real { reactor, start } => {
                // Polling the events is a system call; ready tasks need not wait for it each time.
                if !idle && self.batches_since_poll.get() < MAX_BATCHES_SINCE_POLL {
                    self.batches_since_poll.set(self.batches_since_poll.get() + 1);
                    return Ok(true);
                }
                self.batches_since_poll.set(0);
                let next = self.timers.borrow_mut().next();
                let timeout = match next {
                    _ if !idle => 0,
                    None => -1,
                    // Rounded up: waking early would spin until the timer is due.
                    Some(at) => {
                        let left = at.saturating_sub(start.elapsed());
                        left.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32
                    }
                };
                reactor.borrow_mut().wait(timeout)?;
                self.fire(start.elapsed());
                Ok(true)
            }
            Mode::Simulated { now, .. } => {
                // Requests that its own tasks made through a [`Remote`].
                self.take_remote();
                if !self.ready.borrow().is_empty() {
                    return Ok(true);
                }
                let Some(at) = self.timers.borrow_mut().next() else { return Ok(false) };
                now.set(now.get().max(at));
                self.fire(now.get());
                Ok(true)
            }
        }
    }

    fn fire(&self, now: Duration) {
        let due = self.timers.borrow_mut().due(now);
        for waker in due {
            waker.wake();
        }
    }
}

/// One thread's tasks and the loop that runs them. See the crate's documentation.
pub struct Executor {
    inner: Rc<Inner>,
}

impl Executor {
    /// An executor on real descriptors and the real clock.
    ///
    /// # Errors
    /// If the kernel cannot create an epoll instance or an eventfd.
    pub fn new() -> io::Result<Self> {
        let mode = Mode::Real { reactor: RefCell::new(Reactor::new()?), start: Instant::now() };
        let event = EventFd::new(EFD_NONBLOCK)?;
        let watched = event.try_clone()?;
        let executor = Self::with(mode, Some(event));
        let _enter = Enter::new(&executor.inner);
        let watched = AsyncFd::for_reading(watched)?;
        // Holds the executor weakly, because the executor holds this task.
        let inner = Rc::downgrade(&executor.inner);
        spawn(async move {
            loop {
                watched.readable().await;
                watched.clear_readable();
                let Some(inner) = inner.upgrade() else { return };
                inner.take_remote();
            }
        });
        Ok(executor)
    }

    /// An executor in a simulation: a virtual clock, and a schedule drawn from `seed`.
    pub fn simulated(seed: u64) -> Self {
        Self::with(
            Mode::Simulated { now: Cell::new(Duration::ZERO), random: RefCell::new(Random::new(seed)) },
            None,
        )
    }

    fn with(mode: Mode, event: Option<EventFd>) -> Self {
        let inner = Inner {
            tasks: Tasks::default(),
            ready: RefCell::default(),
            timers: RefCell::default(),
            shared: Shared::new(event),
            pool: Pool::default(),
            values: Values::default(),
            before_wait: RefCell::default(),
            batches_since_poll: Cell::new(0),
            mode,
        };
        Executor { inner: Rc::new(inner) }
    }

    /// A handle to this executor for other threads.
    pub fn remote(&self) -> Remote {
        Remote { shared: self.inner.shared.clone() }
    }

    /// Runs all tasks until `future` ends. Remaining tasks are kept, and continue in the next call.
    ///
    /// # Panics
    /// In a simulation whose tasks all wait for each other, and if the event loop fails, which happens
    /// only when the process is out of memory.
    pub fn block_on<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        let _enter = Enter::new(&self.inner);
        let (sender, mut receiver) = oneshot();
        spawn(async move { sender.send(future.await) });
        let mut noop = Context::from_waker(Waker::noop());
        loop {
            self.inner.run_ready();
            if let Poll::Ready(value) = Pin::new(&mut receiver).poll(&mut noop) {
                return value.expect("only its own panic ends the main task without a value");
            }
            match self.inner.wait() {
                Ok(true) => {}
                Ok(false) => panic!("simulation: every task waits for another"),
                Err(e) => panic!("event loop: {e}"),
            }
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        let _enter = Enter::new(&self.inner);
        self.inner.shared.close();
        self.inner.pool.close();
        self.inner.tasks.clear();
        self.inner.before_wait.borrow_mut().clear();
    }
}
