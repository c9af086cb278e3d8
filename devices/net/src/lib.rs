//! The virtio network device (virtio 1.2, 5.1): Ethernet frames between a guest's rings and a [`Link`], which
//! is a tap interface of the host or a stream socket to a network stack in user space (passt).
//!
//! In the order in which a frame meets it: [`VirtioNet`] (the device as its transport sees it, on any thread)
//! → `serve` (on the thread of an executor: one task for each direction) → [`Link`] (one frame that was
//! received and one that is being sent, which outlive a reset) → `tap`, `stream` (what a frame looks like
//! there).
//!
//! | what | becomes of it |
//! |---|---|
//! | a frame of the guest while the link takes no more | stays in the ring |
//! | a frame of the link while the guest offers no room | stays with the link, and those behind it where they come from |
//! | a frame of less than 14 or more than 65,550 bytes | dropped |
//! | a frame for which the guest's whole ring has no room | dropped |
//! | the link ends or breaks | one line in the log, VIRTIO_NET_S_LINK_UP goes; the guest's frames are dropped |
//! | a stop or a reset of the machine | waits for no frame; what was half sent is sent to its end |
//!
//! There are no offloads: checksums are complete, and no frame is longer than its network allows.
//!
//! The driver is hostile: whatever stands in its memory, and whenever it changes, this device neither panics
//! nor spins nor touches anything outside of guest memory. What a link sends is bounded likewise.

mod config;
mod device;
mod link;
mod mac;
mod serve;

pub use config::QUEUE_SIZE;
pub use device::VirtioNet;
pub use link::{Link, MOST_FRAME};
pub use mac::Mac;
