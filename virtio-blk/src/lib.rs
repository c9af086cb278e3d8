//! The virtio block device: rings to requests and back, over guest memory.
//!
//! In the order in which a request meets it: [`VirtioBlk`] (the device as its transport sees it, on any
//! thread) → `active` (what lives on the disk's thread between DRIVER_OK and reset) → `ring` (one
//! virtqueue: kicks, chains out, used entries and interrupts back) → `chain` (descriptors to memory) →
//! `request` (a chain to a command, a result to a status) → [`Backend`] (the disk; `disk` makes `block::Disk` one).
//!
//! | state | takes requests from the rings | completions |
//! |---|---|---|
//! | inactive | no | - |
//! | running | while the disk's gate is open | used entry, then interrupt |
//! | paused | no; they wait in the ring, also for a kick that never comes again | as running |
//! | broken (a malformed ring or chain; DEVICE_NEEDS_RESET) | never again before a reset | as running |
//! | resetting | no | dropped: neither ring nor status byte is touched; a read's data may still arrive |
//!
//! The driver is hostile: whatever stands in its memory, and whenever it changes, this device neither
//! panics nor spins nor touches anything outside of guest memory. Everything in guest memory that decides
//! something is read once.

mod active;
mod backend;
mod chain;
mod config;
mod device;
mod disk;
mod request;
mod ring;

pub use backend::{Backend, Handle};
pub use config::{Config, Options, QUEUE_SIZE};
pub use device::VirtioBlk;
