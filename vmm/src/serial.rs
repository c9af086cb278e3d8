//! Serial ports: the UART that the guest drives, and the back ends that carry its bytes, or those of a
//! virtio console.
//!
//! A [`Port`] connects the two sides. The vCPU side appends output to a bounded buffer and takes input
//! from another; the main loop's tasks move bytes between these buffers and the world. Neither side ever
//! waits for the other: if nobody takes the output, its oldest bytes are dropped, and input that the guest
//! does not take stays at its source.

mod backend;
mod panic;
mod port;
mod stdio;
mod terminal;
mod unix;

#[cfg(test)]
#[path = "serial_tests.rs"]
mod tests;

pub use backend::Backend;
pub use backend::{Running, listen};
pub use port::Port;
pub use stdio::{restore_terminal, save_terminal};
pub use terminal::Terminal;
