//! What other threads tell the main loop, and how they wake it.

use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;

use executor::{AsyncFd, lock};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Something that the main loop has to decide about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The guest has powered itself off. The vCPUs are parked for good.
    PowerOff,
    /// The guest has asked for a reset. The vCPUs are parked until [`crate::Machine::reset`].
    Reset,
    /// The guest's kernel has panicked: it said so to pvpanic and still runs, or it asked for a reset
    /// after `Kernel panic` on a serial port.
    Panicked,
    /// A vCPU met a fault while it handled a double fault, which resets a real machine. The vCPUs are parked.
    TripleFault,
    /// KVM cannot run the guest any further; the text says why. The vCPUs are parked for good.
    Failed(String),
    /// Ctrl-A x was typed on the serial port's standard input.
    Quit,
}

/// Wakes one task of the main loop from any thread, without blocking.
pub struct Signal(EventFd);

impl Signal {
    /// A signal that is not raised.
    ///
    /// # Errors
    /// If there is no eventfd to be had.
    pub fn new() -> io::Result<Self> {
        EventFd::new(EFD_NONBLOCK).map(Signal)
    }

    /// Wakes the waiting side, now or when it waits next.
    pub fn raise(&self) {
        // Fails only when the counter is full, and then it is readable already.
        let _ = self.0.write(1);
    }

    /// What is written to raise it.
    pub fn event(&self) -> &EventFd {
        &self.0
    }

    /// The waiting side, for one task at a time of the current executor.
    pub fn waiter(&self) -> io::Result<Waiter> {
        Waiter::new(&self.0)
    }
}

/// The waiting side of a [`Signal`].
pub struct Waiter(AsyncFd<EventFd>);

impl Waiter {
    /// Waits for writes to a copy of `event`.
    pub fn new(event: &EventFd) -> io::Result<Self> {
        Ok(Waiter(AsyncFd::new(event.try_clone()?)?))
    }

    /// Ends when the signal was raised since this ended last: test the condition, then wait, in a loop.
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

    /// Adds an event. One that is waiting already is not added again, so that a guest cannot fill the
    /// host's memory by repeating itself.
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

    /// Forgets what the guest said before a reset; what the user said stays.
    pub fn forget_guest(&self) {
        lock(&self.queue).retain(|event| *event == Event::Quit);
    }
}
