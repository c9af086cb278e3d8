//! The interface between a back end and the device whose bytes it carries.

use vmm_sys_util::eventfd::EventFd;

use super::Port;

/// A guest device's output and input, both bounded. Neither side ever blocks in it.
pub trait Terminal: Send + Sync {
    /// Takes up to `most` bytes of output, oldest first. Returns an empty vector if there is none.
    fn take_output(&self, most: usize) -> Vec<u8>;
    /// Puts output that could not be delivered back to the front, as far as there is room.
    fn return_output(&self, bytes: &[u8]);
    /// Offers input to the guest and returns the number of bytes taken. The rest must be offered again
    /// when there is room.
    fn offer_input(&self, bytes: &[u8]) -> usize;
    /// Returns the eventfd that is written when there is output to take.
    fn output_event(&self) -> &EventFd;
    /// Returns the eventfd that is written when there is room for input again.
    fn room_event(&self) -> &EventFd;
}

impl Terminal for Port {
    fn take_output(&self, most: usize) -> Vec<u8> {
        self.take_output(most)
    }

    fn return_output(&self, bytes: &[u8]) {
        self.return_output(bytes);
    }

    fn offer_input(&self, bytes: &[u8]) -> usize {
        self.offer_input(bytes)
    }

    fn output_event(&self) -> &EventFd {
        self.output.event()
    }

    fn room_event(&self) -> &EventFd {
        self.room.event()
    }
}
