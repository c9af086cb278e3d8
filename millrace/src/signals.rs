//! SIGTERM, SIGINT and SIGHUP, each of which asks the program to end.
//!
//! A thread waits for them, so that they take effect whatever the main loop is doing. During its start the
//! program makes calls that may take forever: a name is looked up, a peer does not accept, a file lies on a
//! server that is down. No client has been promised anything by then, so the thread itself ends the program.
//! Later the main loop ends it, which takes as long as the disks take; a second signal ends it at once.
//!
//! SIGHUP stays ignored if it was ignored at the start, as by nohup. SIGQUIT keeps its default action, for
//! users who want a core dump.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use super::end::leave;
use executor::lock;
use vmm::notice::{self, Waiter};

/// Signals within this time of the first count as one: timeout(1) signals the program and then its group,
/// and when a terminal closes, the kernel and the shell both send a signal.
const SAME: Duration = Duration::from_millis(300);

/// Signals that are held back from their default action.
pub(super) struct BlockedSignals(SigSet);

/// Reports the first signal to the main loop.
pub(super) struct Signals {
    /// True if the main loop ends the program. Locked while the thread ends it.
    serving: Mutex<bool>,
    asked: notice::Signal,
}

/// Blocks the signals in this thread and in those that it starts later. Must be called before any other
/// thread is started.
pub(super) fn hold_back() -> BlockedSignals {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    if !is_ignored(Signal::SIGHUP) {
        set.add(Signal::SIGHUP);
    }
    // Fails only for an operation that does not exist.
    let _ = set.thread_block();
    BlockedSignals(set)
}

fn is_ignored(signal: Signal) -> bool {
    // SAFETY: all-zero bytes are a valid action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action nothing changes; the old one is written to `action`, which is valid for
    // that. It fails only for signals that do not exist.
    unsafe { libc::sigaction(signal as libc::c_int, std::ptr::null(), &mut action) };
    action.sa_sigaction == libc::SIG_IGN
}

impl BlockedSignals {
    /// Starts the thread that waits for them.
    pub(super) fn watch(self) -> io::Result<Arc<Signals>> {
        let signals = Arc::new(Signals { serving: Mutex::new(false), asked: notice::Signal::new()? });
        let told = signals.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || told.wait(&self.0))?;
        Ok(signals)
    }
}

impl Signals {
    /// From here on the main loop handles the first signal. Does not return if one came before.
    pub(super) fn serve(&self) {
        *lock(&self.serving) = true;
    }

    /// Returns a waiter that the first signal wakes, for the main loop.
    pub(super) fn waiter(&self) -> io::Result<Waiter> {
        self.asked.waiter()
    }

    fn wait(&self, set: &SigSet) {
        let mut first = None;
        loop {
            // Fails only for signals that do not exist.
            let Ok(signal) = set.wait() else { continue };
            let first: Instant = match first {
                Some(first) => first,
                None => {
                    first = Some(Instant::now());
                    tracing::info!("{signal}: ending");
                    self.first();
                    continue;
                }
            };
            if first.elapsed() > SAME {
                leave(1, Some("ended by a second signal: data that is not on stable storage may be lost"));
            }
        }
    }

    fn first(&self) {
        let serving = lock(&self.serving);
        if !*serving {
            leave(0, None);
        }
        drop(serving);
        self.asked.raise();
    }
}
