//! The virtio console device (virtio 1.2, 5.3) with one port, which Linux names `/dev/hvc0`: it carries
//! bytes between a guest's rings and a [`Line`], at whose other end somebody may be.
//!
//! [`VirtioConsole`] is the device; its tasks run on the thread of an executor. [`Line`] connects it to the
//! code that carries the bytes further, on any thread.
//!
//! Linux writes to such a console with interrupts off, and its processor does nothing else until the device
//! has taken the bytes. So the device does not make it wait for long:
//!
//! | output that waits | a further buffer of the guest |
//! |---|---|
//! | less than [`OUTPUT_MAX`] | is taken at once |
//! | more, and somebody takes output | waits until there is room, at most [`PATIENCE`] |
//! | more, and nobody took any for as long | is taken at once; beyond [`KEPT_MAX`] the oldest is dropped |
//!
//! Input waits in the line until the guest offers a buffer. A line takes no more than [`INPUT_MAX`] bytes.

mod device;
mod line;

pub use device::{QUEUE_SIZE, VirtioConsole};
pub use line::{INPUT_MAX, KEPT_MAX, Line, OUTPUT_MAX, PATIENCE};
