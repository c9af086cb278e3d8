//! The virtio block device: rings to requests and back, over guest memory.
//!
//! The path of a request: [`VirtioBlk`] (the device as its transport sees it, on any thread) → `serve` (on
//! the disk's thread: takes chains out of the queues while the disk's gate is open) → `request` (turns a
//! chain into a command, and the result into a status or, by `policy`, into a request that is kept for
//! later) → [`Backend`] (the disk; `disk` makes `block::Disk` one). The crate `virtio` handles the queues,
//! also when the machine is stopped or the driver is wrong.
//!
//! The driver is hostile: whatever its memory holds, and whenever that changes, this device neither panics
//! nor spins nor touches anything outside guest memory. Everything in guest memory that decides something is
//! read only once.

mod backend;
mod config;
mod device;
mod disk;
mod policy;
mod request;
mod serve;

pub use backend::Backend;
pub use config::{Config, Options, QUEUE_SIZE};
pub use device::VirtioBlk;
pub use policy::{ErrorPolicy, IoError};
