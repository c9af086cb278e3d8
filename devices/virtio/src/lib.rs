//! Virtio: the interface between a [`Device`] and its transport, a transport ([`mmio`]), and split
//! virtqueues on an executor's thread.
//!
//! A device is a [`Model`]: its ID, its features, its config space, and its use of its queues.
//! [`VirtioDevice`] makes a [`Device`] of it: life cycle, ring features, pause, reset and access to the
//! config space. It calls the model on an executor's thread with a [`Queue`] for each virtqueue, and runs
//! the futures that the model returns until the reset. Such a future is a straight line. This is a whole
//! entropy source, which fills every buffer that the driver offers:
//!
//! ```
//! # use std::{io, sync::Arc};
//! # use virtio::driver::{Driver, Interrupts, Piece, activation};
//! # use virtio::{Device, Model, Negotiated, Queue, Task, VirtioDevice};
//! # use vm_memory::{GuestAddress, GuestMemoryMmap};
//! struct Entropy;
//!
//! impl Model for Entropy {
//!     const ID: u32 = 4;
//!     type Config = ();
//!     type Keep = ();
//!
//!     fn queue_sizes(&self) -> Vec<u16> {
//!         vec![8]
//!     }
//!
//!     fn config(&self) {}
//!
//!     fn serve(self: Arc<Self>, _: Negotiated, queues: Vec<Queue>) -> io::Result<Vec<Task>> {
//!         Ok(queues.into_iter().map(|queue| -> Task { Box::pin(fill(queue)) }).collect())
//!     }
//! }
//!
//! async fn fill(queue: Queue) {
//!     loop {
//!         let chain = queue.next().await;
//!         let bytes = vec![4; chain.writable.len().min(4096)];
//!         chain.writable.copy_from(&bytes);
//!         chain.token.complete(bytes.len() as u32, ());
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let thread = executor::Thread::start("devices", std::future::pending)?;
//! let mut device = VirtioDevice::new(thread.remote().clone(), Entropy);
//! # let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)])?);
//! # let mut drivers = [Driver::new(memory, 0x1_0000, 0x2_0000, 8, true)];
//! # let interrupts = Arc::new(Interrupts::default());
//! # interrupts.clear_used(1);
//! # device.activate(activation(&drivers, 8, device.features(), &interrupts))?;
//! # let [driver] = &mut drivers;
//! # let room = driver.alloc(&[0; 64]);
//! # driver.add(&[Piece { address: room, len: 64, write: true }], false);
//! # driver.publish();
//! # interrupts.wait(|counts| counts.used == [1]);
//! # assert_eq!(driver.pop_used().map(|(_head, len)| len), Some(64));
//! # assert_eq!(driver.bytes(room, 64), [4; 64]);
//! # device.reset();
//! # Ok(())
//! # }
//! ```
//!
//! A device that only sometimes has something to send (a console's input) waits for that first, and only
//! then takes a chain: [`Queue::available`] waits without taking one, so that a pause has nothing to wait
//! for. A device that may need several chains (for a network frame) takes all of them or none, by
//! [`Queue::room`].
//!
//! | state | chains out of the ring | completions |
//! |---|---|---|
//! | inactive | no | - |
//! | running | while fewer than 64 MiB are in flight from the queue | used entry, then interrupt |
//! | paused | no; they wait in the ring, and need no new kick later | as running |
//! | broken (a malformed ring or chain; DEVICE_NEEDS_RESET) | never again before a reset | as running |
//! | any, for a parked chain ([`ParkedChain`]) | - | waits while paused or for a resume; holds nobody up |
//! | resetting | no | dropped: the ring is not touched, and nothing else should be ([`Token::is_wanted`]) |
//!
//! The driver is hostile: whatever its memory holds, and whenever that changes, nothing here panics, spins
//! or touches anything outside guest memory. Everything that decides something is read only once.
//!
//! # Modules, in reading order
//!
//! - `device`: the interface between a device and its transport
//! - [`mmio`]: the transport
//! - `model`: the interface of a device's author, and the [`Device`] made of it
//! - `runner`: the part that lives on the executor's thread between DRIVER_OK and reset
//! - `queue`: one virtqueue
//! - `chain`: from a hostile driver's tables to checked pieces of guest memory
//! - `parked`: chains that a device keeps for later
//! - `room`: several chains for one message to the driver
//! - [`driver`]: the driver's side, for tests and fuzzers
//!
//! # Tests
//!
//! Beside the files (`*_tests.rs`), on mock rings. The crates of devices test the rest through them, and
//! `tests/hostile` has the fuzzers.

mod chain;
mod device;
pub mod driver;
pub mod mmio;
mod model;
mod parked;
mod queue;
mod room;
mod runner;

pub use chain::Malformed;
pub use device::{Activation, Device, Interrupt, ReadyQueue};
pub use model::{Model, Negotiated, VirtioDevice};
pub use parked::ParkedChain;
pub use queue::{Chain, Queue, Token};
pub use room::{NoRoom, Room};
pub use runner::{Task, has};
