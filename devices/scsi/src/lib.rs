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

mod cdrom;
mod config;
mod device;
mod pages;
mod request;
mod sense;
mod serve;

pub use config::QUEUE_SIZE;
pub use device::VirtioScsi;
