//! An executor on a thread of its own.

use std::future::Future;
use std::io;

use crate::remote::{Remote, Reply};
use crate::run::Executor;

/// A thread that runs an executor until a main future ends.
pub struct Thread {
    remote: Remote,
    handle: std::thread::JoinHandle<()>,
}

impl Thread {
    /// Starts a thread named `name` (15 bytes are visible) that runs `main` and all that it spawns.
    ///
    /// # Errors
    /// If the kernel cannot start a thread or create an event loop.
    pub fn start<F: Future<Output = ()> + 'static>(
        name: &str,
        main: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<Self> {
        let (started, reply) = Reply::pair();
        let handle = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let executor = match Executor::new() {
                Ok(executor) => executor,
                Err(e) => return started.send(Err(e)),
            };
            started.send(Ok(executor.remote()));
            executor.block_on(async move { main().await });
        })?;
        let remote = reply.wait().map_err(io::Error::other)??;
        Ok(Thread { remote, handle })
    }

    /// The way into the thread's executor.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Waits for the main future's end. Returns false if the thread panicked.
    pub fn join(self) -> bool {
        self.handle.join().is_ok()
    }
}
