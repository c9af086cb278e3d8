//! The virtio console device (virtio 1.2, 5.3) with one port, which Linux names `/dev/hvc0`: bytes between a
//! guest's rings and a [`Line`], at whose other end somebody may be.
//!
//! [`VirtioConsole`] is the device as its transport sees it, on any thread; its tasks run on the thread of an
//! executor. [`Line`] is the meeting point with whoever carries the bytes further, on any thread.
//!
//! Linux writes to such a console with interrupts off, and its processor does nothing else until the device
//! has taken the bytes. So they are not kept waiting for long:
//!
//! | output that waits | a further buffer of the guest |
//! |---|---|
//! | less than [`OUTPUT_MAX`] | is taken at once |
//! | more, and somebody takes output | waits until there is room, at most [`PATIENCE`] |
//! | more, and nobody took any for as long | is taken at once; beyond [`KEPT_MAX`] it pushes out the oldest |
//!
//! Input waits in the line until the guest offers a buffer; a line takes no more than [`INPUT_MAX`].
//!
//! The driver is hostile: whatever stands in its memory, and whenever it changes, this device neither panics
//! nor spins nor touches anything outside of guest memory.

mod device;
mod line;

pub use device::{QUEUE_SIZE, VirtioConsole};
pub use line::{INPUT_MAX, KEPT_MAX, Line, OUTPUT_MAX, PATIENCE};
