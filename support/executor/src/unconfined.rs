//! Worker threads that are not confined like the thread that calls, for opening files and connecting.

use std::io;
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::pool::Pool;

struct Workers {
    pool: Pool,
    /// Sends to the thread that creates the workers. They inherit its confinement.
    maker: Mutex<Sender<Pool>>,
}

static FILES: OnceLock<Workers> = OnceLock::new();
static CONNECTIONS: OnceLock<Workers> = OnceLock::new();

/// Starts the threads that create the workers of [`unconfined`] and [`connecting`], and calls `confine` on
/// the first one. Must be called once per process, before any thread is confined. Returns the value of
/// `confine`.
///
/// # Errors
/// If the kernel cannot start a thread.
pub fn start_unconfined_pool<T: Send + 'static>(
    confine: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    start(&CONNECTIONS, "connector", || ())?;
    start(&FILES, "opener", confine)
}

fn start<T: Send + 'static>(
    workers: &OnceLock<Workers>,
    name: &'static str,
    confine: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (maker, requests) = mpsc::channel::<Pool>();
    let (answer, confined) = mpsc::channel();
    std::thread::Builder::new().name(name.into()).spawn(move || {
        // The caller of `start` waits for it.
        let _ = answer.send(confine());
        for pool in requests {
            if pool.clone().start(name).is_err() {
                // If no other thread can be started, this one does the work.
                pool.serve();
            }
        }
    })?;
    // A second one would get no work.
    let _ = workers.set(Workers { pool: Pool::default(), maker: Mutex::new(maker) });
    confined.recv().map_err(io::Error::other)
}

/// Like [`crate::unblock`], on a thread that is confined only by what `confine` of [`start_unconfined_pool`]
/// did: for opening files by name. Without such a thread it is `unblock`.
pub async fn unconfined<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    on(&FILES, work).await
}

/// Like [`unconfined`], on a thread that `confine` was not called on: for connections, because the C
/// library reads files of its own to look up host names.
pub async fn connecting<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    on(&CONNECTIONS, work).await
}

async fn on<T: Send + 'static>(workers: &OnceLock<Workers>, work: impl FnOnce() -> T + Send + 'static) -> T {
    match workers.get() {
        Some(Workers { pool, maker }) if !crate::is_simulated() => {
            let start = |pool| {
                let maker = maker.lock().unwrap_or_else(PoisonError::into_inner);
                maker.send(pool).map_err(io::Error::other)
            };
            crate::worked(work, |work| pool.run_by(work, start)).await
        }
        _ => crate::unblock(work).await,
    }
}
