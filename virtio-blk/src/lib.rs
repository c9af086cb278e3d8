//! The virtio block device: rings to requests and back, over guest memory.
//!
//! The path of a request: [`VirtioBlk`] (the device) → `serve` (on the disk's thread: takes chains out of the
//! queues while the disk's gate is open) → `request` (turns a chain into a command, and the result into a
//! status or, by `policy`, into a request that is parked for later) → [`block::disk::Front`] (the disk). The
//! crate `virtio` handles the queues, also when the machine is stopped or the driver is wrong.

mod config;
mod device;
mod policy;
mod request;
mod serve;

pub use config::{Config, ConfigSpace, Options, QUEUE_SIZE};
pub use device::VirtioBlk;
pub use policy::{ErrorPolicy, IoError};
