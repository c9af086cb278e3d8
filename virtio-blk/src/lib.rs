//! The virtio block device: rings to requests and back, over guest memory.
//!
//! The path of a request: [`VirtioBlk`] (the device) → `serve` (on the disk's thread: takes chains out of
//! the queues while the disk's gate is open) → `request` (turns a chain into a command, and the result
//! into a status or, by `policy`, into a request that is parked for later) → [`block::disk::Front`] (the
//! disk). The crate `virtio` handles the queues, also when the machine is stopped or the driver is wrong.
//!
//! # Modules, in reading order
//!
//! - `device`: the device
//! - `config`: its options, features and config space
//! - `serve`: the tasks that take requests out of the queues
//! - `request`: one request, from a chain to a command and from its result to a status
//! - `policy`: the reaction to errors of the disk
//!
//! # Example
//!
//! A guest, whose memory and driver `virtio::driver` plays, reads a sector of a simulated file:
//!
//! ```
//! # use std::sync::Arc;
//! # use vm_memory::{GuestAddress, GuestMemoryMmap};
//! use block::{Disk, Kind, chain, sim::SimDir};
//! use virtio::Device;
//! use virtio::driver::{Driver, Interrupts, Piece, activation};
//! use virtio_blk::{ErrorPolicy, Options, QUEUE_SIZE, VirtioBlk};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let thread = executor::Thread::start("disk", std::future::pending)?;
//! let opened = thread.remote().call(|| async {
//!     let files = SimDir::new();
//!     files.add("disk.img", vec![7; 1 << 20]);
//!     let leaf = chain::open(&*files, "disk.img", Kind::Raw, true).await?;
//!     let disk = Disk::new("virtio0", leaf, false, files, |_event| {});
//!     let handle = disk.handle();
//!     executor::spawn(async move { disk.closed().await });
//!     Ok::<_, block::Error>(handle)
//! });
//! let (serial, errors) = ("example".into(), ErrorPolicy::report());
//! let options = Options { size: 1 << 20, read_only: false, serial, queues: 1, errors };
//! let mut device = VirtioBlk::device(opened.wait()??, options);
//!
//! # let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)])?);
//! # let mut drivers = [Driver::new(memory, 0x1_0000, 0x2_0000, 16, true)];
//! # let interrupts = Arc::new(Interrupts::default());
//! # interrupts.clear_used(1);
//! device.activate(activation(&drivers, QUEUE_SIZE, device.features(), &interrupts))?;
//! # let [driver] = &mut drivers;
//! // A header of zeros is a read of sector 0 (virtio 1.2, 5.2.6).
//! let [header, data, status] = [vec![0; 16], vec![0; 512], vec![0xff]].map(|bytes| driver.alloc(&bytes));
//! let piece = |address, len, write| Piece { address, len, write };
//! driver.add(&[piece(header, 16, false), piece(data, 512, true), piece(status, 1, true)], false);
//! driver.publish();
//! interrupts.wait(|counts| counts.used == [1]);
//! assert_eq!((driver.bytes(data, 512), driver.bytes(status, 1)), (vec![7; 512], vec![0]));
//! # device.reset();
//! # Ok(())
//! # }
//! ```
//!
//! # Tests
//!
//! Beside the files (`*_tests.rs`); `tests/device.rs` and its folder drive the device through mock rings,
//! `tests/memory.rs` bounds the memory that a guest can make its host hold. Hostile input: `tests/hostile`.

mod config;
mod device;
mod policy;
mod request;
mod serve;

pub use config::{Config, ConfigSpace, Options, QUEUE_SIZE};
pub use device::VirtioBlk;
pub use policy::{ErrorPolicy, IoError};
