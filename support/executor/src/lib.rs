//! A single-threaded async executor over an `event-manager` loop, with a seeded twin on a virtual clock for
//! simulation.
//!
//! One [`Executor`] owns one thread: its tasks are `!Send`, need no locks, and interleave only at an
//! `.await`. Inside a task the free functions of this crate ([`spawn`], [`sleep`], [`now`],
//! [`unblock`], [`AsyncFd::new`]) refer to the executor that runs it. Other threads reach it through
//! its [`Remote`].
//!
//! [`Executor::simulated`] runs the same tasks, but draws the next ready task from a seed and has a
//! clock that jumps to the next timer when nothing is ready. So a schedule can be replayed from its
//! seed.
//!
//! # Modules, in reading order
//!
//! - `task`: tasks as a slab of futures, [`spawn`] and [`JoinHandle`]
//! - `run`: the ready queue, the loop and the clock
//! - [`sync`]: signals, semaphores and channels between tasks of one executor
//! - `timer`: [`sleep`] and [`timeout`]
//! - `fd`: descriptors whose readiness tasks await
//! - `remote`: the way in from other threads, and the replies to them
//! - `handle`: a typed way to a value of another thread's executor
//! - `thread`: an executor on a thread of its own
//! - `pool`: worker threads for calls that block
//! - `unconfined`: worker threads that are less confined than their caller, for opening files and connecting
//! - [`log`]: log lines that an outside party can cause
//!
//! # Example
//!
//! ```
//! # use std::{rc::Rc, time::Duration};
//! use executor::sync::Event;
//! use executor::{Executor, Thread, now, sleep, spawn};
//!
//! const TIME: Duration = Duration::from_millis(20);
//!
//! /// Two tasks: one waits for the other's signal, and returns the time at which it came.
//! async fn signal() -> Option<Duration> {
//!     let event = Rc::new(Event::new());
//!     let waiting = event.clone();
//!     let waiter = spawn(async move {
//!         waiting.wait().await;
//!         now()
//!     });
//!     sleep(TIME).await;
//!     event.notify();
//!     waiter.await
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! assert!(Executor::new()?.block_on(signal()) >= Some(TIME));
//! // A simulation does not wait, and its clock is exact.
//! assert_eq!(Executor::simulated(7).block_on(signal()), Some(TIME));
//! // An executor on another thread, called from this one.
//! let thread = Thread::start("example", std::future::pending)?;
//! assert!(thread.remote().call(signal).wait()? >= Some(TIME));
//! # Ok(())
//! # }
//! ```
//!
//! # Tests
//!
//! `src/tests.rs` has those of the whole crate; `handle_tests.rs` and `log.rs` have their own. `block` tests
//! itself on the simulated executor.

mod fd;
mod handle;
pub mod log;
mod pool;
mod remote;
mod run;
pub mod sync;
mod task;
#[cfg(test)]
mod tests;
mod thread;
mod timer;
mod unconfined;

pub use fd::AsyncFd;
pub use handle::Handle;
pub use remote::{Gone, Remote, Reply, lock};
pub use run::{Executor, before_wait, is_simulated, now, random, remote};
pub use task::{JoinHandle, spawn, to_the_end, yield_now};
pub use thread::Thread;
pub use timer::{sleep, sleep_until, timeout};
pub use unconfined::{connecting, start_unconfined_pool, unconfined};

/// Runs a closure that may block on a worker thread and awaits its result.
///
/// In a simulation the closure runs at once on the calling thread. The closure runs to its end even if
/// the returned future is dropped, so it must own everything that it uses.
pub async fn unblock<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if is_simulated() {
        return work();
    }
    let pool = run::current().pool.clone();
    worked(work, |work| pool.run(work)).await
}

/// Starts a thread at once that runs a closure which may block. The result can be awaited on any
/// executor, or waited for; if the closure panics, it is [`Gone`].
///
/// # Errors
/// If the kernel cannot start a thread.
pub fn spawn_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<Reply<T>> {
    let (reply, receiver) = remote::Reply::pair();
    std::thread::Builder::new().name(name.into()).spawn(move || reply.send(work()))?;
    Ok(receiver)
}

/// Passes `work` to a worker by `run` and awaits its result.
async fn worked<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
    run: impl FnOnce(Box<dyn FnOnce() + Send>),
) -> T {
    let (reply, receiver) = remote::Reply::pair();
    run(Box::new(move || reply.send(work())));
    match receiver.await {
        Ok(value) => value,
        // The sender is dropped without a reply only if `work` panicked.
        Err(Gone) => panic!("a worker panicked"),
    }
}
