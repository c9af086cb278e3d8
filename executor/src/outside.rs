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

static OUTSIDE: OnceLock<Outside> = OnceLock::new();

/// Starts the thread whose children do what [`outside`] asks for, and calls `confine` on it. Once in a process,
/// before any thread is confined. What `confine` answers is answered here.
///
/// # Errors
/// Where the kernel gives no thread.
pub fn start_outside<T: Send + 'static>(confine: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (maker, wishes) = mpsc::channel::<Pool>();
    let (answer, confined) = mpsc::channel();
    std::thread::Builder::new().name("opener".into()).spawn(move || {
        // Whoever started us waits for it.
        let _ = answer.send(confine());
        for pool in wishes {
            if pool.clone().start("opener").is_err() {
                // Without another thread, this one.
                pool.serve();
            }
        }
    })?;
    // A second one would have no work.
    let _ = OUTSIDE.set(Outside { pool: Pool::default(), maker: Mutex::new(maker) });
    confined.recv().map_err(io::Error::other)
}

/// As [`crate::unblock`], on a thread that is as free as the one that [`start_outside`] started: for what
/// reaches files by name, or the network. Without such a thread it is `unblock`.
pub async fn outside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match OUTSIDE.get() {
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
