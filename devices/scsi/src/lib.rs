//! The virtio SCSI host with one target, a CD-ROM: from requests to a removable disk and its tray.
//!
//! The path of a request: [`VirtioScsi`] (the device) → `serve` (on the disk's thread: takes chains out
//! of the three kinds of queues) → `request` (turns a chain into a command, and its result into a
//! response) → `cdrom` (commands, the tray and the reports about it) → `pages` (the layout of the data)
//! → [`block::disk::Front`] (the drive).
//!
//! | what happens to the drive | commands | GET EVENT STATUS NOTIFICATION | event queue, if subscribed |
//! |---|---|---|---|
//! | power-on or reset | unit attention 29h | - | - |
//! | opened by the monitor | unit attention 3Ah, then not ready 3Ah | media removal | media change |
//! | closed by the monitor on a medium | unit attention 28h | new medium | media change |
//! | closed by the guest on a medium | unit attention 28h | new medium | - |
//! | locked, and the monitor wants it open | - | eject request | media change |
//! | changed without notice | - | - | - |
//!
//! Standards: virtio 1.2 (5.6) for the host; SPC-3, SBC-2 and MMC-5 for commands, by name.
//!
//! # Modules, in reading order
//!
//! - `device`: the device
//! - `config`: its features and config space
//! - `serve`: the tasks for the request, control and event queues
//! - `request`: from a chain to a command, and its response back
//! - `cdrom`: the commands, the tray and the reports about it
//! - `pages`, `sense`: the layout of data, and of the reasons why commands fail
//!
//! # Example
//!
//! A guest, whose memory and drivers `virtio::driver` plays, asks what its drive is:
//!
//! ```
//! # use std::sync::Arc;
//! # use vm_memory::{GuestAddress, GuestMemoryMmap};
//! use block::{Disk, sim::SimDir};
//! use virtio::Device;
//! use virtio::driver::{Driver, Interrupts, Piece, activation};
//! use virtio_scsi::{QUEUE_SIZE, VirtioScsi};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let thread = executor::Thread::start("drive", std::future::pending)?;
//! let opened = thread.remote().call(|| async {
//!     let drive = Disk::removable("cd0", None, SimDir::new(), |_event| {}).await?;
//!     let handle = drive.handle();
//!     executor::spawn(async move { drive.closed().await });
//!     Ok::<_, block::Error>(handle)
//! });
//! let mut device = VirtioScsi::device(opened.wait()??, "cd0");
//!
//! # let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)])?);
//! # let driver = |rings| Driver::new(memory.clone(), rings, rings + 0x1_0000, 16, true);
//! # let mut drivers = [driver(0x1_0000), driver(0x3_0000), driver(0x5_0000)];
//! # let interrupts = Arc::new(Interrupts::default());
//! # interrupts.clear_used(3);
//! device.activate(activation(&drivers, QUEUE_SIZE, device.features(), &interrupts))?;
//! # let [_control, _event, requests] = &mut drivers;
//! // An address, a tag and an INQUIRY for 36 bytes; room for the response and the data.
//! let request = [&[1, 0, 0x40, 0, 0, 0, 0, 0][..], &[0; 11], &[0x12, 0, 0, 0, 36], &[0; 27]].concat();
//! let (request, response) = (requests.alloc(&request), requests.alloc(&[0; 108 + 36]));
//! let piece = |address, len, write| Piece { address, len, write };
//! requests.add(&[piece(request, 51, false), piece(response, 108 + 36, true)], false);
//! requests.publish();
//! interrupts.wait(|counts| counts.used[2] == 1);
//! // A CD-ROM (5) whose medium can be removed.
//! assert_eq!(requests.bytes(response + 108, 2), [5, 0x80]);
//! # device.reset();
//! # Ok(())
//! # }
//! ```
//!
//! # Tests
//!
//! `tests/device.rs` and its folder drive the device through mock rings; bytes of commands are written by
//! hand, from the standards. Hostile input: `tests/hostile`. A guest with a CD-ROM:
//! `tests/e2e/tests/guest/cdrom.rs`.

mod cdrom;
mod config;
mod device;
mod pages;
mod request;
mod sense;
mod serve;

pub use config::QUEUE_SIZE;
pub use device::VirtioScsi;
