//! The line: two bounded buffers between a device and its other end.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Number of bytes of output that may wait for the other end before the guest has to wait.
pub const OUTPUT_MAX: usize = 256 << 10;
/// Maximum number of bytes of output that wait. Beyond that the oldest are dropped.
pub const KEPT_MAX: usize = 2 * OUTPUT_MAX;
/// Maximum number of bytes of input that wait for the guest.
pub const INPUT_MAX: usize = 64 << 10;
/// Time limit for a guest's output to wait for room, while somebody seems to take it.
pub const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct State {
    output: VecDeque<u8>,
    input: VecDeque<u8>,
    /// True if output was taken since the last wait for that timed out.
    is_heard: bool,
}

/// A line between a console's device and its other end. Neither side ever blocks in it.
///
/// Each eventfd is written when its condition begins to hold. Those who wait check the state first, and
/// again after each write.
pub struct Line {
    state: Mutex<State>,
    /// Written when there is output.
    output: EventFd,
    /// Written when there is less output than the bound.
    drained: EventFd,
    /// Written when there is input.
    input: EventFd,
    /// Written when there is less input than the bound.
    room: EventFd,
}

impl Line {
    /// Returns an empty line, whose output nobody has taken yet.
    ///
    /// # Errors
    /// Fails if the process is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK);
        let (output, drained, input, room) = (event()?, event()?, event()?, event()?);
        Ok(Line { state: Mutex::default(), output, drained, input, room })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the eventfd that is written when there is output to take.
    pub fn output_event(&self) -> &EventFd {
        &self.output
    }

    /// Returns the eventfd that is written when there is room for input again.
    pub fn room_event(&self) -> &EventFd {
        &self.room
    }

    /// Takes up to `most` bytes of the guest's output, oldest first. Returns an empty vector if there is
    /// none.
    pub fn take_output(&self, most: usize) -> Vec<u8> {
        let mut state = self.state();
        let was_full = state.output.len() >= OUTPUT_MAX;
        let most = most.min(state.output.len());
        let bytes: Vec<u8> = state.output.drain(..most).collect();
        state.is_heard |= !bytes.is_empty();
        if was_full && state.output.len() < OUTPUT_MAX {
            raise(&self.drained);
        }
        bytes
    }

    /// Puts output that could not be delivered back to the front, as far as there is room.
    pub fn return_output(&self, bytes: &[u8]) {
        let mut state = self.state();
        let room = KEPT_MAX - state.output.len();
        for byte in bytes.iter().rev().take(room) {
            state.output.push_front(*byte);
        }
    }

    /// Offers input to the guest and returns the number of bytes taken. The rest must be offered again when
    /// there is room.
    pub fn offer_input(&self, bytes: &[u8]) -> usize {
        let mut state = self.state();
        let taken = bytes.len().min(INPUT_MAX - state.input.len());
        let was_empty = state.input.is_empty();
        state.input.extend(&bytes[..taken]);
        if was_empty && taken > 0 {
            raise(&self.input);
        }
        taken
    }

    /// Returns the eventfd that is written when there is less output than the bound again.
    pub(crate) fn drained_event(&self) -> &EventFd {
        &self.drained
    }

    /// Returns the eventfd that is written when there is input.
    pub(crate) fn input_event(&self) -> &EventFd {
        &self.input
    }

    /// Returns true if a further buffer of output has to wait until somebody takes some.
    pub(crate) fn should_wait(&self) -> bool {
        let state = self.state();
        state.is_heard && state.output.len() >= OUTPUT_MAX
    }

    /// Ends waiting after a wait that timed out: there is no other wait until somebody takes output.
    pub(crate) fn give_up(&self) {
        self.state().is_heard = false;
    }

    /// Adds output. If there is too much, the oldest is dropped.
    pub(crate) fn put_output(&self, bytes: &[u8]) {
        let mut state = self.state();
        let was_empty = state.output.is_empty();
        let bytes = &bytes[bytes.len().saturating_sub(KEPT_MAX)..];
        let excess = (state.output.len() + bytes.len()).saturating_sub(KEPT_MAX);
        state.output.drain(..excess);
        state.output.extend(bytes);
        if was_empty {
            raise(&self.output);
        }
    }

    /// Returns true if there is input.
    pub(crate) fn has_input(&self) -> bool {
        !self.state().input.is_empty()
    }

    /// Takes up to `most` bytes of input.
    pub(crate) fn take_input(&self, most: usize) -> Vec<u8> {
        let mut state = self.state();
        let was_full = state.input.len() >= INPUT_MAX;
        let most = most.min(state.input.len());
        let bytes = state.input.drain(..most).collect();
        if was_full && most > 0 {
            raise(&self.room);
        }
        bytes
    }
}

fn raise(event: &EventFd) {
    // Fails only when the counter is full, and then it is readable already.
    let _ = event.write(1);
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
