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
//! # use virtio::{Model, Negotiated, Queue, Task};
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
