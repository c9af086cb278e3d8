//! Worker threads for calls that block.
//!
//! An executor has a pool of its own, because a thread passes what it may ask of the kernel on to the
//! threads that it makes: work must not reach further than whoever asked for it.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The most threads of one pool; more work waits.
const MOST: usize = 64;
/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(5);

type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    queue: VecDeque<Work>,
    /// Threads that wait for work, and all of them.
    idle: usize,
    threads: usize,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// Threads that come with the work and go without it. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Shared>);

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut state = self.state();
        loop {
            if let Some(work) = state.queue.pop_front() {
                drop(state);
                // Whoever waits for it hears of the panic, and the thread lives on.
                let _ = catch_unwind(AssertUnwindSafe(work));
                state = self.state();
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let (woken, waited) =
                self.changed.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}

impl Pool {
    /// Runs `work` on a thread of the pool; `start` makes one that calls [`Pool::serve`] where none is idle.
    /// Where the kernel gives no thread, one that is there does it later, and without any the caller at once.
    pub(crate) fn run_by(&self, work: Work, start: impl FnOnce(Pool) -> io::Result<()>) {
        let mut state = self.0.state();
        state.queue.push_back(work);
        if state.queue.len() <= state.idle || state.threads >= MOST {
            return self.0.changed.notify_one();
        }
        state.threads += 1;
        drop(state);
        if start(self.clone()).is_err() {
            let mut state = self.0.state();
            state.threads -= 1;
            let work = if state.threads == 0 { state.queue.pop_back() } else { None };
            drop(state);
            if let Some(work) = work {
                work();
            }
        }
    }

    /// Runs `work` on a thread that was made by a caller of this.
    pub(crate) fn run(&self, work: Work) {
        self.run_by(work, |pool| pool.start("worker"));
    }

    /// Starts a thread that serves.
    pub(crate) fn start(self, name: &str) -> io::Result<()> {
        std::thread::Builder::new().name(name.into()).spawn(move || self.serve()).map(drop)
    }

    /// Does what there is to do, until there was nothing for a while.
    pub(crate) fn serve(&self) {
        self.0.serve();
    }

    /// Lets the threads go when what there is to do is done.
    pub(crate) fn close(&self) {
        self.0.state().closed = true;
        self.0.changed.notify_all();
    }
}
