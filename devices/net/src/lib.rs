//! The virtio network device (virtio 1.2, 5.1): Ethernet frames between a guest's rings and a [`Link`],
//! which is a tap interface of the host or a stream socket to a network stack in user space (passt).
//!
//! The path of a frame: [`VirtioNet`] (the device) → `serve` (on the thread of an executor: one task for each
//! direction) → [`Link`] (one received frame and one that is being
//! sent, which outlive a reset) → `tap`, `stream` (the format of a frame there).
//!
//! | event | effect |
//! |---|---|
//! | a frame of the guest while the link takes no more | stays in the ring |
//! | a frame of the link while the guest has no room | kept by the link; those behind it stay at the source |
//! | a frame of less than 14 or more than 65,550 bytes | dropped |
//! | a frame for which the guest's whole ring has no room | dropped |
//! | the link ends or breaks | one line in the log, LINK_UP is cleared, the guest's frames are dropped |
//! | a stop or a reset of the machine | waits for no frame; one that is half sent is completed |
//!
//! There are no offloads: checksums are complete, and no frame is longer than its network allows.
//!
//! Frames from a link are bounded in the same way as those of a hostile driver.

mod config;
mod device;
mod link;
mod mac;
mod serve;

pub use config::QUEUE_SIZE;
pub use device::VirtioNet;
pub use link::{Link, MOST_FRAME};
pub use mac::Mac;
