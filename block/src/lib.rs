//! Disks over chains of images, switched, populated and copied live on one I/O thread each.
//!
//! The folders are in the order in which a request falls through them, and none imports from one above it:
//!
//! - [`job`]: the kinds of background work (streams, verifications), and the copier that they share
//! - [`disk`]: what a guest, an export and the monitor see: gate and tickets, filters, claims, the
//!   runtime of jobs, [`switch`], [`tray`]
//! - [`image`]: one image of a chain ([`node`]), chains, and the commands on images (create, [`check`],
//!   [`map`])
//! - [`format`](mod@format): from an offset of the disk to an offset in a file: raw, qcow2, QED
//! - [`storage`]: flat runs of bytes: files, block devices, NBD exports
//! - [`io`]: io_uring, or worker threads
//! - [`sim`]: storage in memory whose delays, failures and power cuts come from a seed
//!
//! The three steps of a live copy, on simulated files:
//!
//! ```
//! use block::job::JobOptions;
//! use block::stream::StreamOptions;
//! use block::switch::{DEADLINE, Overlay};
//! use block::{Buf, Disk, Kind, chain, sim::SimDir};
//!
//! executor::Executor::simulated(1).block_on(async {
//!     let files = SimDir::new();
//!     files.add("old.img", vec![7; 1 << 20]);
//!     let leaf = chain::open(&*files, "old.img", Kind::Raw, true).await?;
//!     let disk = Disk::new("virtio0", leaf, false, files.clone(), |_event| {});
//!
//!     // Create the new image over the running one, and switch to it.
//!     let overlay = Overlay {
//!         name: "new.qcow2".into(),
//!         format: Kind::Qcow2,
//!         existing: false,
//!         node_name: None,
//!         notify: true,
//!     };
//!     disk.prepare_overlay(&overlay).await?.commit(DEADLINE).await?;
//!
//!     // Copy the rest, while the guest goes on.
//!     disk.start_stream(StreamOptions::default(), JobOptions::new("copy")).await?;
//!     let ticket = disk.enter().await;
//!     disk.write(&ticket, 4096, Buf::from_bytes(&[1; 512])).await?;
//!     drop(ticket);
//!     disk.job("copy")?.ended().await;
//!
//!     // The old image is not needed any more.
//!     assert!(disk.leaf().backing().is_none());
//!     disk.close().await
//! })?;
//! # Ok::<(), block::Error>(())
//! ```
//!
//! Tests: `foo_tests.rs` beside `foo.rs`; `src/tests.rs` has whole disks in the simulator, under a
//! guest's load and power cuts (`cargo sim -- list`); `tests/real` uses real files and devices,
//! `tests/qcow2` and `tests/matrix` compare with qemu-img and imago.

pub mod disk;
mod error;
pub mod format;
pub mod image;
pub mod io;
pub mod job;
mod on_error;
mod pieces;
pub mod sim;
pub mod storage;
mod turns;

pub use ::buf::{self, Buf};
pub use disk::job::Job;
pub use disk::{Disk, DiskEvent, DiskHandle, Ticket};
pub use disk::{clusters, flight, stats, step, switch, tray};
pub use error::{Error, ErrorKind, Result};
pub use format::Kind;
pub use image::{chain, check, map, node};
pub use job::stream;
pub use on_error::{ErrorAction, OnError};
pub use storage::host;

#[cfg(test)]
mod imports_tests;
#[cfg(test)]
mod tests;
