//! SIGTERM, SIGINT and SIGHUP, each of which asks the program to end.
//!
//! A thread waits for them, so that they are heard whatever the main loop is doing. The program starts by
//! calls that may take for ever: a name is looked up, a peer accepts no connection, a file lies on a server
//! that is away. Nobody has been promised anything by then, so the thread itself ends the program. Later the
//! main loop does, and takes as long as the disks take; another signal ends the program at once.
//!
//! SIGHUP stays ignored where the program was started so, as nohup does. SIGQUIT keeps its default action: it
//! is for who wants a core dump of the program as it is.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use super::end::leave;
use executor::lock;
use vmm::notice::{self, Waiter};

/// Signals within this time of the first count as one: timeout(1) sends its signal to the program and then to
/// its group, and of the end of a terminal both the kernel and the shell tell.
const SAME: Duration = Duration::from_millis(300);

/// Signals that are held back from their default action.
pub(super) struct Held(SigSet);

/// The first signal, for the main loop.
pub(super) struct Signals {
    /// Whether the main loop ends the program; locked while the thread does.
    serving: Mutex<bool>,
    asked: notice::Signal,
}

/// Holds the signals back from this thread and all that it starts later. Before any other thread is started.
pub(super) fn hold_back() -> Held {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    if !is_ignored(Signal::SIGHUP) {
        set.add(Signal::SIGHUP);
    }
    // Fails only for a way of setting that does not exist.
    let _ = set.thread_block();
    Held(set)
}

fn is_ignored(signal: Signal) -> bool {
    // SAFETY: all-zero bytes are a valid action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action nothing changes; the old one is written to `action`, which is valid for
    // that. It fails only for signals that do not exist.
    unsafe { libc::sigaction(signal as libc::c_int, std::ptr::null(), &mut action) };
    action.sa_sigaction == libc::SIG_IGN
}

impl Held {
    /// Starts the thread that waits for them.
    pub(super) fn watch(self) -> io::Result<Arc<Signals>> {
        let signals = Arc::new(Signals { serving: Mutex::new(false), asked: notice::Signal::new()? });
        let told = signals.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || told.wait(&self.0))?;
        Ok(signals)
    }
}

impl Signals {
    /// From here on the first signal is the main loop's to hear. Does not return where one came before.
    pub(super) fn serve(&self) {
        *lock(&self.serving) = true;
    }

    /// Ends at the first signal, on the main loop.
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
                    tracing::info!("{signal}: ends");
                    self.first();
                    continue;
                }
            };
            if first.elapsed() > SAME {
                leave(1, Some("ended by a second signal: what was not yet on stable storage may be lost"));
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
