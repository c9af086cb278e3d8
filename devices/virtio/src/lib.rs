//! Split virtqueues on an executor's thread: chains out of a hostile guest's memory, used entries back.
//!
//! A device holds a [`Runner`], to which it hands what its transport gives it; the runner calls the device
//! back on the thread of its executor with a [`Queue`] for each virtqueue, and runs the futures that come
//! back until the reset. What such a future does is a straight line:
//!
//! ```
//! # use virtio::Queue;
//! /// An entropy source: fills every buffer that the driver offers.
//! async fn serve(queue: Queue) {
//!     loop {
//!         let chain = queue.next().await;
//!         let bytes = vec![4; chain.writable.len().min(4096)];
//!         chain.writable.copy_from(&bytes);
//!         chain.token.complete(bytes.len() as u32, ());
//!     }
//! }
//! ```
//!
//! A device that has something to tell only now and then (a console's input) has it first, and takes a chain
//! for it then: [`Queue::available`] waits and takes none, so that a pause has nothing to wait for. What may
//! need several chains (a network frame) takes them all or none, by [`Queue::room`].
//!
//! | state | chains out of the ring | completions |
//! |---|---|---|
//! | inactive | no | - |
//! | running | while fewer than 64 MiB are in flight from the queue | used entry, then interrupt |
//! | paused | no; they wait in the ring, also for a kick that never comes again | as running |
//! | broken (a malformed ring or chain; DEVICE_NEEDS_RESET) | never again before a reset | as running |
//! | any, for a chain set aside ([`Aside`]) | - | it waits while paused, or for the next resume; nobody waits for it |
//! | resetting | no | dropped: the ring is not touched, and nothing else should be ([`Token::is_wanted`]) |
//!
//! The driver is hostile: whatever stands in its memory, and whenever it changes, nothing here panics, spins
//! or touches anything outside of guest memory. What decides something is read once.

mod aside;
mod chain;
mod device;
pub mod driver;
pub mod mmio;
mod queue;
mod room;
mod runner;

pub use aside::Aside;
pub use chain::Malformed;
pub use device::{Activation, Device, Interrupt, ReadyQueue};
pub use queue::{Chain, Queue, Token};
pub use room::{NoRoom, Room};
pub use runner::{Runner, Task, has};
