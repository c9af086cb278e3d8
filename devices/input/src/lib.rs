//! The virtio input devices (virtio 1.2, 5.8): a keyboard, and a tablet, which is a pointer with absolute
//! coordinates. Their codes are those of Linux's `evdev` (include/uapi/linux/input-event-codes.h).
//!
//! [`VirtioInput`] is the device; its tasks run on the thread of an executor. A [`Feed`] connects it to
//! whoever types and points, on any thread. A feed is bounded and never waits for the guest:
//!
//! | event | while the guest has no driver | while [`WAITING_MAX`] events wait | otherwise |
//! |---|---|---|---|
//! | a key or button goes down, a wheel turns | is dropped | is refused | waits for the guest |
//! | a key or button goes up that is down for the guest | - | waits for the guest | waits for the guest |
//! | the pointer moves | is dropped | takes the place of the last move, or is refused | likewise, or waits |
//!
//! So no key stays down for a guest because it was slow, and a feed holds two events more for each key at
//! most. The guest repeats no key by itself: a key that is pressed again while it is down is a repetition.
//! The other way, the guest reports the lamps of its lock keys ([`Feed::lamps`]).
//!
//! # Modules, in reading order
//!
//! - `feed`: the events that wait for the guest, and the keys that are down for it
//! - `config`: the config space, which describes the device piece by piece
//! - `device`: the device and its two tasks
//! - [`codes`]: the codes that this crate uses itself
//!
//! # Example
//!
//! A guest, whose memory and driver `virtio::driver` plays, gets the press of a key:
//!
//! ```
//! # use std::sync::Arc;
//! # use vm_memory::{GuestAddress, GuestMemoryMmap};
//! use virtio::{Device, VirtioDevice};
//! use virtio::driver::{Driver, Interrupts, Piece, activation};
//! use virtio_input::{Feed, QUEUE_SIZE, VirtioInput};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! const KEY_A: u16 = 30;
//! let thread = executor::Thread::start("devices", std::future::pending)?;
//! let feed = Arc::new(Feed::new()?);
//! let mut device = VirtioDevice::new(thread.remote().clone(), VirtioInput::keyboard(feed.clone()));
//!
//! # let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)])?);
//! # let driver = |rings| Driver::new(memory.clone(), rings, rings + 0x1_0000, 8, true);
//! # let mut drivers = [driver(0x1_0000), driver(0x3_0000)];
//! # let interrupts = Arc::new(Interrupts::default());
//! # interrupts.clear_used(2);
//! device.activate(activation(&drivers, QUEUE_SIZE, device.features(), &interrupts))?;
//!
//! # let events = &mut drivers[0];
//! let buffers: Vec<u64> = (0..2).map(|_| events.alloc(&[0; 8])).collect();
//! for address in &buffers {
//!     events.add(&[Piece { address: *address, len: 8, write: true }], false);
//! }
//! events.publish();
//! feed.key(KEY_A, true);
//! interrupts.wait(|counts| counts.used[0] >= 1);
//! # while events.pop_used().is_none() {}
//! # while events.pop_used().is_none() {}
//! // EV_KEY, KEY_A, down; then EV_SYN, the end of what happens at once.
//! assert_eq!(events.bytes(buffers[0], 8), [1, 0, 30, 0, 1, 0, 0, 0]);
//! assert_eq!(events.bytes(buffers[1], 8), [0; 8]);
//! # device.reset();
//! # Ok(())
//! # }
//! ```
//!
//! # Tests
//!
//! `feed_tests.rs` and `config_tests.rs` beside the files; `tests/device.rs` drives the devices through mock
//! rings. Hostile input: `tests/hostile`.

pub mod codes;
mod config;
mod device;
mod feed;

pub use device::{QUEUE_SIZE, VirtioInput};
pub use feed::{Axis, Feed, Lamps, WAITING_MAX};
