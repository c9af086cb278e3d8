//! Worker threads for calls that block.
//!
//! Each executor has a pool of its own, because a thread passes its confinement on to the threads that
//! it creates: work must not be able to do more than the thread that asked for it.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The largest number of threads in one pool; more work waits.
const MOST: usize = 64;
/// The time after which a thread without work ends.
const IDLE: Duration = Duration::from_secs(5);

type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    queue: VecDeque<Work>,
    /// Threads that wait for work.
    idle: usize,
    /// All threads.
    threads: usize,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// Threads that are started when there is work and end when there is none. Clones share the threads.
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
                // The task that waits for the work is notified of the panic, and the thread lives on.
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
    /// Runs `work` on a thread of the pool. If none is idle, `start` creates one that calls
    /// [`Pool::serve`]. If that fails, an existing thread does the work later; if there is none, the
    /// caller does it at once.
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

    /// Runs `work` on a thread of the pool. If none is idle, the calling thread starts one.
    pub(crate) fn run(&self, work: Work) {
        self.run_by(work, |pool| pool.start("worker"));
    }

    /// Starts a thread that serves this pool.
    pub(crate) fn start(self, name: &str) -> io::Result<()> {
        std::thread::Builder::new().name(name.into()).spawn(move || self.serve()).map(drop)
    }

    /// Works until there is no work for [`IDLE`], or until the pool is closed.
    pub(crate) fn serve(&self) {
        self.0.serve();
    }

    /// Ends the threads once the queued work is done.
    pub(crate) fn close(&self) {
        self.0.state().closed = true;
        self.0.changed.notify_all();
    }
}
