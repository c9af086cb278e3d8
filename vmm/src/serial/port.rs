//! The UART and its two buffers.

use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::panic::PanicWatch;
use crate::bus::Target;
use crate::notice::Signal;
use executor::lock;

/// Maximum output that waits for a back end, in bytes. Beyond that the oldest is dropped.
pub const OUTPUT_MAX: usize = 64 << 10;
/// Maximum input that waits for the guest, in bytes. A back end reads no more until there is room.
pub const INPUT_MAX: usize = 4 << 10;

/// The UART's interrupt line.
struct Irq(EventFd);

impl Trigger for Irq {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

struct State {
    uart: Serial<Irq, NoEvents, Vec<u8>>,
    output: VecDeque<u8>,
    input: VecDeque<u8>,
    panic: PanicWatch,
    /// True if a back end takes the output.
    keep: bool,
}

/// One serial port: the guest's UART on one side, buffers for a back end on the other.
pub struct Port {
    state: Mutex<State>,
    irq: EventFd,
    /// Raised when there is output to take.
    pub(crate) output: Signal,
    /// Raised when there is room for input again.
    pub(crate) room: Signal,
}

impl Port {
    /// Returns a port that keeps its output for a back end, or discards it if `keep` is false.
    ///
    /// # Errors
    /// Fails if the process is out of file descriptors.
    pub fn new(keep: bool) -> io::Result<Self> {
        let irq = EventFd::new(EFD_NONBLOCK)?;
        let uart = Serial::new(Irq(irq.try_clone()?), Vec::new());
        let state = State {
            uart,
            output: VecDeque::new(),
            input: VecDeque::new(),
            panic: PanicWatch::default(),
            keep,
        };
        Ok(Port { state: Mutex::new(state), irq, output: Signal::new()?, room: Signal::new()? })
    }

    /// Returns a copy of the interrupt line's eventfd.
    pub(crate) fn irq(&self) -> io::Result<EventFd> {
        self.irq.try_clone()
    }

    /// Returns true if the guest's kernel has reported a panic since the last reset.
    pub fn saw_panic(&self) -> bool {
        lock(&self.state).panic.panicked()
    }

    /// Returns the UART to its power-on state. Output that nobody took and input that the guest did not
    /// take stay.
    pub fn reset(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.uart = Serial::new(Irq(self.irq.try_clone()?), Vec::new());
        state.panic = PanicWatch::default();
        Ok(())
    }

    /// Takes up to `most` bytes of output, oldest first. Returns an empty vector if there is none.
    pub fn take_output(&self, most: usize) -> Vec<u8> {
        let mut state = lock(&self.state);
        let most = most.min(state.output.len());
        state.output.drain(..most).collect()
    }

    /// Puts output that could not be delivered back to the front, as far as there is room.
    pub fn return_output(&self, bytes: &[u8]) {
        let mut state = lock(&self.state);
        let room = OUTPUT_MAX - state.output.len().min(OUTPUT_MAX);
        for byte in bytes.iter().rev().take(room) {
            state.output.push_front(*byte);
        }
    }

    /// Offers input to the guest and returns the number of bytes taken. The rest must be offered again
    /// when there is room.
    pub fn offer_input(&self, bytes: &[u8]) -> usize {
        let mut state = lock(&self.state);
        let taken = bytes.len().min(INPUT_MAX - state.input.len().min(INPUT_MAX));
        state.input.extend(&bytes[..taken]);
        self.feed(&mut state);
        taken
    }

    /// Moves input into the UART's FIFO while there is room. In loopback mode the UART takes none.
    fn feed(&self, state: &mut State) {
        if state.input.is_empty() {
            return;
        }
        let full = state.input.len() == INPUT_MAX;
        let (front, _) = state.input.as_slices();
        // Fails only if the interrupt's counter is full, and then an interrupt is pending already.
        let moved = match state.uart.fifo_capacity().min(front.len()) {
            0 => 0,
            count => state.uart.enqueue_raw_bytes(&front[..count]).unwrap_or(count),
        };
        state.input.drain(..moved);
        if full && moved > 0 {
            self.room.raise();
        }
    }

    fn collect(&self, state: &mut State) {
        if state.uart.writer().is_empty() {
            return;
        }
        let bytes = std::mem::take(state.uart.writer_mut());
        bytes.iter().for_each(|byte| state.panic.push(*byte));
        if !state.keep {
            return;
        }
        let was_empty = state.output.is_empty();
        let excess = (state.output.len() + bytes.len()).saturating_sub(OUTPUT_MAX).min(state.output.len());
        state.output.drain(..excess);
        state.output.extend(bytes);
        if was_empty {
            self.output.raise();
        }
    }
}

impl Target for Port {
    /// Treats an access of several bytes as that many accesses to the same register.
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = lock(&self.state);
        for byte in data {
            *byte = state.uart.read(offset as u8);
            self.feed(&mut state);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = lock(&self.state);
        for byte in data {
            // Writing to memory does not fail; a failed interrupt means a full counter.
            let _ = state.uart.write(offset as u8, *byte);
        }
        self.collect(&mut state);
        self.feed(&mut state);
    }
}
