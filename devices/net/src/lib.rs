//! The virtio network device (virtio 1.2, 5.1): Ethernet frames between a guest's rings and a [`Link`],
//! which is a tap interface of the host or a stream socket to a network stack in user space (passt).
//!
//! The path of a frame: [`VirtioNet`] (the device) → `serve` (on the thread of an executor: one task for
//! each direction) → [`Link`] (one received frame and one that is being sent, which outlive a reset) →
//! `tap`, `stream` (the format of a frame there).
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
//!
//! # Modules, in reading order
//!
//! - `device`: the device
//! - `config`: its features and config space
//! - `serve`: the two tasks that carry frames
//! - `link`: the other end; `link/tap` and `link/stream`: the two kinds
//! - `mac`: addresses of interfaces
//!
//! # Example
//!
//! A guest, whose memory and drivers `virtio::driver` plays, sends a frame to a stack in user space:
//!
//! ```
//! # use std::{io::Read, os::unix::net::UnixStream, sync::Arc};
//! # use vm_memory::{GuestAddress, GuestMemoryMmap};
//! use virtio::{Device, VirtioDevice};
//! use virtio::driver::{Driver, Interrupts, Piece, activation};
//! use virtio_net::{Link, Mac, QUEUE_SIZE, VirtioNet};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let thread = executor::Thread::start("devices", std::future::pending)?;
//! let (ours, mut stack) = UnixStream::pair()?;
//! let link = Link::stream(ours, "the example's stack")?;
//! let net = VirtioNet::new(link, Mac::of_name("net0"));
//! let mut device = VirtioDevice::new(thread.remote().clone(), net);
//!
//! # let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)])?);
//! # let driver = |rings| Driver::new(memory.clone(), rings, rings + 0x1_0000, 16, true);
//! # let mut drivers = [driver(0x1_0000), driver(0x3_0000)];
//! # let interrupts = Arc::new(Interrupts::default());
//! # interrupts.clear_used(2);
//! device.activate(activation(&drivers, QUEUE_SIZE, device.features(), &interrupts))?;
//!
//! // The header of 12 bytes asks for nothing; the frame is broadcast.
//! # let [_receive, transmit] = &mut drivers;
//! let chain = transmit.alloc(&[[0; 12].as_slice(), &[0xff; 60]].concat());
//! transmit.add(&[Piece { address: chain, len: 72, write: false }], false);
//! transmit.publish();
//! let mut sent = [0; 4 + 60];
//! stack.read_exact(&mut sent)?;
//! assert_eq!(sent[..4], 60_u32.to_be_bytes());
//! assert_eq!(sent[4..], [0xff; 60]);
//! # device.reset();
//! # Ok(())
//! # }
//! ```
//!
//! # Tests
//!
//! `link/*_tests.rs` and `mac.rs` have their own; `tests/device.rs` and its folder drive the device through
//! mock rings, against a socket and against passt. Hostile input: `tests/hostile`.

mod config;
mod device;
mod link;
mod mac;
mod serve;

pub use config::QUEUE_SIZE;
pub use device::VirtioNet;
pub use link::{Link, MOST_FRAME};
pub use mac::Mac;
