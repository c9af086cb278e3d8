//! Workers beyond the confinement of the thread that asks.

use std::io;
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::pool::Pool;

struct Outside {
    pool: Pool,
    /// To the thread that makes the workers, which are as free as it is.
    maker: Mutex<Sender<Pool>>,
}

static FILES: OnceLock<Outside> = OnceLock::new();
static CONNECTIONS: OnceLock<Outside> = OnceLock::new();

/// Starts the threads whose children do what [`outside`] and [`connecting`] are asked for, and calls
/// `confine` on the first. Once in a process, before any thread is confined. Returns what `confine` returns.
///
/// # Errors
/// If the kernel gives no thread.
pub fn start_outside<T: Send + 'static>(confine: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    start(&CONNECTIONS, "connector", || ())?;
    start(&FILES, "opener", confine)
}

fn start<T: Send + 'static>(
    outside: &OnceLock<Outside>,
    name: &'static str,
    confine: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (maker, wishes) = mpsc::channel::<Pool>();
    let (answer, confined) = mpsc::channel();
    std::thread::Builder::new().name(name.into()).spawn(move || {
        // Whoever started us waits for it.
        let _ = answer.send(confine());
        for pool in wishes {
            if pool.clone().start(name).is_err() {
                // Without another thread, this one.
                pool.serve();
            }
        }
    })?;
    // A second one would have no work.
    let _ = outside.set(Outside { pool: Pool::default(), maker: Mutex::new(maker) });
    confined.recv().map_err(io::Error::other)
}

/// As [`crate::unblock`], on a thread that is as free as `confine` of [`start_outside`] has left it: for what
/// reaches files by name. Without such a thread it is `unblock`.
pub async fn outside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    on(&FILES, work).await
}

/// As [`outside`], on a thread that `confine` was not called on: for connections, whose host names the C
/// library looks up in files of its own.
pub async fn connecting<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    on(&CONNECTIONS, work).await
}

async fn on<T: Send + 'static>(outside: &OnceLock<Outside>, work: impl FnOnce() -> T + Send + 'static) -> T {
    match outside.get() {
        Some(Outside { pool, maker }) if !crate::is_simulated() => {
            let start = |pool| {
                let maker = maker.lock().unwrap_or_else(PoisonError::into_inner);
                maker.send(pool).map_err(io::Error::other)
            };
            crate::worked(work, |work| pool.run_by(work, start)).await
        }
        _ => crate::unblock(work).await,
    }
}
