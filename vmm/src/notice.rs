//! Events from other threads to the main loop, and the signals that wake it.

use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;

use executor::{AsyncFd, lock};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// An event to which the main loop has to react.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The guest has powered itself off. The vCPUs are parked for good.
    PowerOff,
    /// The guest has asked for a reset. The vCPUs are parked until [`crate::Machine::reset`].
    Reset,
    /// The guest's kernel has panicked: it reported so to pvpanic and still runs, or it asked for a reset
    /// after `Kernel panic` on a serial port.
    Panicked,
    /// A vCPU met a fault while it handled a double fault, which resets a real machine. The vCPUs are
    /// parked.
    TripleFault,
    /// KVM cannot run the guest any further; the text says why. The vCPUs are parked for good.
    Failed(String),
    /// Ctrl-A x was typed on the serial port's standard input.
    Quit,
}

/// Wakes one task of the main loop from any thread, without blocking.
pub struct Signal(EventFd);

impl Signal {
    /// Returns a signal that is not raised.
    ///
    /// # Errors
    /// Fails if no eventfd can be created.
    pub fn new() -> io::Result<Self> {
        EventFd::new(EFD_NONBLOCK).map(Signal)
    }

    /// Wakes the waiting side, now or when it waits next.
    pub fn raise(&self) {
        // Fails only when the counter is full, and then it is readable already.
        let _ = self.0.write(1);
    }

    /// Returns the eventfd that raises the signal when it is written.
    pub fn event(&self) -> &EventFd {
        &self.0
    }

    /// Returns the waiting side, for one task at a time of the current executor.
    pub fn waiter(&self) -> io::Result<Waiter> {
        Waiter::new(&self.0)
    }
}

/// The waiting side of a [`Signal`].
pub struct Waiter(AsyncFd<EventFd>);

impl Waiter {
    /// Returns a waiter for writes to `event`, of which it keeps a copy.
    pub fn new(event: &EventFd) -> io::Result<Self> {
        Ok(Waiter(AsyncFd::new(event.try_clone()?)?))
    }

    /// Waits until the signal has been raised since the last wait. Use it in a loop: test the condition,
    /// then wait.
    pub async fn wait(&self) {
        self.0.readable().await;
        self.0.clear_readable();
    }
}

/// The queue of events, from any thread to the main loop.
pub(crate) struct Notices {
    queue: Mutex<VecDeque<Event>>,
    pub(crate) signal: Signal,
}

impl Notices {
    pub fn new() -> io::Result<Self> {
        Ok(Notices { queue: Mutex::default(), signal: Signal::new()? })
    }

    /// Adds an event, unless an equal one is queued already, so that a guest cannot fill the host's memory
    /// by repeating itself.
    pub fn push(&self, event: Event) {
        let mut queue = lock(&self.queue);
        if !queue.contains(&event) {
            queue.push_back(event);
        }
        drop(queue);
        self.signal.raise();
    }

    pub fn is_empty(&self) -> bool {
        lock(&self.queue).is_empty()
    }

    pub fn pop(&self) -> Option<Event> {
        lock(&self.queue).pop_front()
    }

    /// Removes the guest's events before a reset; the user's stay.
    pub fn forget_guest(&self) {
        lock(&self.queue).retain(|event| *event == Event::Quit);
    }
}
