//! The gate that every vCPU thread passes before it enters the guest: the one place where vCPUs stop.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::notice::Signal;
use executor::lock;

/// The requested state of the vCPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    Run,
    Park,
    End,
}

struct State {
    wanted: Wanted,
    /// The guest has ended itself: from now on only [`Wanted::End`] opens the gate.
    closed: bool,
    /// Number of vCPUs that wait at the gate or whose thread has ended.
    out: usize,
}

/// The gate of one start of the machine, shared by all vCPU threads and the main loop.
pub(crate) struct Gate {
    state: Mutex<State>,
    opened: Condvar,
    count: usize,
    /// Raised when one more vCPU is out of the guest.
    pub(crate) signal: Signal,
}

impl Gate {
    pub(crate) fn new(count: usize, wanted: Wanted) -> io::Result<Arc<Self>> {
        let state = Mutex::new(State { wanted, closed: false, out: 0 });
        Ok(Arc::new(Gate { state, opened: Condvar::new(), count, signal: Signal::new()? }))
    }

    /// Sets the requested state. vCPUs inside the guest must be kicked afterwards.
    pub(crate) fn set(&self, wanted: Wanted) {
        let mut state = lock(&self.state);
        // Ended threads do not come back.
        if state.wanted != Wanted::End {
            state.wanted = wanted;
        }
        drop(state);
        self.opened.notify_all();
    }

    /// Parks all vCPUs for good at their next exit: the guest has powered itself off, asked for a reset,
    /// or failed.
    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
    }

    /// Returns true if the guest has ended itself.
    pub(crate) fn closed(&self) -> bool {
        lock(&self.state).closed
    }

    /// Returns true if no vCPU is in the guest or in a device.
    pub(crate) fn all_out(&self) -> bool {
        lock(&self.state).out == self.count
    }

    fn pass(&self, on_park: impl FnOnce()) -> bool {
        let mut state = lock(&self.state);
        let stays = |state: &State| match state.wanted {
            Wanted::Run => state.closed,
            Wanted::Park => true,
            Wanted::End => false,
        };
        if stays(&state) {
            on_park();
            state.out += 1;
            self.signal.raise();
            while stays(&state) {
                state = self.opened.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.out -= 1;
        }
        state.wanted == Wanted::Run
    }
}

/// A vCPU thread's place at the gate. A thread that ends, even by a panic, counts as out of the guest.
pub(crate) struct Seat(pub(crate) Arc<Gate>);

impl Seat {
    /// Waits while the vCPU is to be parked, and calls `on_park` before that. Returns false if the thread
    /// has to end.
    pub(crate) fn pass(&self, on_park: impl FnOnce()) -> bool {
        self.0.pass(on_park)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.0.state).out += 1;
        self.0.signal.raise();
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
