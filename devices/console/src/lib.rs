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
//!
//! # Modules, in reading order
//!
//! - `device`: the device and its two tasks
//! - `line`: the two bounded buffers between a device and its other end
//!
//! # Example
//!
//! A guest, whose memory and drivers `virtio::driver` plays, prints a prompt and reads a line:
//!
//! ```
//! # use std::sync::Arc;
//! # use vm_memory::{GuestAddress, GuestMemoryMmap};
//! use virtio::{Device, VirtioDevice};
//! use virtio::driver::{Driver, Interrupts, Piece, activation};
//! use virtio_console::{Line, QUEUE_SIZE, VirtioConsole};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let thread = executor::Thread::start("devices", std::future::pending)?;
//! let line = Arc::new(Line::new()?);
//! let console = VirtioConsole::new(line.clone());
//! let mut device = VirtioDevice::new(thread.remote().clone(), console);
//!
//! # let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)])?);
//! # let driver = |rings| Driver::new(memory.clone(), rings, rings + 0x1_0000, 8, true);
//! # let mut drivers = [driver(0x1_0000), driver(0x3_0000)];
//! # let interrupts = Arc::new(Interrupts::default());
//! # interrupts.clear_used(2);
//! device.activate(activation(&drivers, QUEUE_SIZE, device.features(), &interrupts))?;
//!
//! # let [receive, transmit] = &mut drivers;
//! let prompt = transmit.alloc(b"login: ");
//! transmit.add(&[Piece { address: prompt, len: 7, write: false }], false);
//! transmit.publish();
//! interrupts.wait(|counts| counts.used[1] == 1);
//! assert_eq!(line.take_output(4096), b"login: ");
//!
//! line.offer_input(b"root\n");
//! let room = receive.alloc(&[0; 80]);
//! receive.add(&[Piece { address: room, len: 80, write: true }], false);
//! receive.publish();
//! interrupts.wait(|counts| counts.used[0] == 1);
//! assert_eq!(receive.pop_used().map(|(_head, len)| len), Some(5));
//! assert_eq!(receive.bytes(room, 5), b"root\n");
//! # device.reset();
//! # Ok(())
//! # }
//! ```
//!
//! # Tests
//!
//! `line_tests.rs` has the buffers; `tests/device.rs` drives the device through mock rings. Hostile input:
//! `tests/hostile`.

mod device;
mod line;

pub use device::{QUEUE_SIZE, VirtioConsole};
pub use line::{INPUT_MAX, KEPT_MAX, Line, OUTPUT_MAX, PATIENCE};
