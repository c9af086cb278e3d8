//! The virtio block device: rings to requests and back, over guest memory.
//!
//! In the order in which a request meets it: [`VirtioBlk`] (the device as its transport sees it, on any
//! thread) → `serve` (on the disk's thread: chains out of the queues, while the disk's gate is open) →
//! `request` (a chain to a command, a result to a status, or by `policy` to a request kept for later) →
//! [`Backend`] (the disk; `disk` makes `block::Disk` one). Its queues, and what becomes of them when the
//! machine is stopped or the driver is wrong, are `virtio`'s.
//!
//! The driver is hostile: whatever stands in its memory, and whenever it changes, this device neither
//! panics nor spins nor touches anything outside of guest memory. Everything in guest memory that decides
//! something is read once.

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
pub use policy::{Action, ErrorPolicy, IoError, OnError};
