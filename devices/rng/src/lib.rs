//! The virtio entropy device (virtio 1.2, 5.4): the host's random numbers for a guest.
//!
//! A fresh VM has few sources of entropy. Without this device, early readers of random numbers may wait for
//! long.
//!
//! A request is a chain with room, and nothing else. It gets at most [`MOST`] bytes, whatever its room: a
//! driver that wants more asks again, and the queue lets others run before that. The bytes come from
//! getrandom(2), which never waits on a host that has booted.
//!
//! # Contents
//!
//! There is only this file: [`VirtioRng`], and the task that serves its queue.
//!
//! # Example
//!
//! A request of a guest, whose memory and driver `virtio::driver` plays:
//!
//! ```
//! # use std::sync::Arc;
//! use virtio::{Device, VirtioDevice};
//! use virtio::driver::{Driver, Interrupts, Piece, activation};
//! use virtio_rng::{QUEUE_SIZE, VirtioRng};
//! use vm_memory::{GuestAddress, GuestMemoryMmap};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let thread = executor::Thread::start("devices", std::future::pending)?;
//! let mut device = VirtioDevice::new(thread.remote().clone(), VirtioRng);
//!
//! let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)])?);
//! let mut drivers = [Driver::new(memory, 0x1_0000, 0x2_0000, QUEUE_SIZE, true)];
//! let interrupts = Arc::new(Interrupts::default());
//! interrupts.clear_used(1);
//! device.activate(activation(&drivers, QUEUE_SIZE, device.features(), &interrupts))?;
//!
//! let [driver] = &mut drivers;
//! let room = driver.alloc(&[0; 64]);
//! driver.add(&[Piece { address: room, len: 64, write: true }], false);
//! driver.publish();
//! interrupts.wait(|counts| counts.used == [1]);
//! assert_eq!(driver.pop_used().map(|(_head, len)| len), Some(64));
//! assert_ne!(driver.bytes(room, 64), [0; 64]);
//! device.reset();
//! # Ok(())
//! # }
//! ```
//!
//! # Tests
//!
//! `tests/device.rs` drives the device through a mock ring. Hostile rings: `tests/hostile`.

use std::io;
use std::sync::Arc;

use rustix::io::retry_on_intr;
use rustix::rand::{GetRandomFlags, getrandom};
use virtio::{Chain, Malformed, Model, Negotiated, Queue, Task};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

/// Size of the queue, in descriptors; also the number of requests that are served before others have a turn.
pub const QUEUE_SIZE: u16 = 8;

/// Maximum number of bytes in the reply to one request.
pub const MOST: usize = 4096;

/// A virtio entropy device.
pub struct VirtioRng;

impl Model for VirtioRng {
    const ID: u32 = VIRTIO_ID_RNG;

    /// There is no config space (virtio 1.2, 5.4.4).
    type Config = ();
    type Keep = ();

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn config(&self) {}

    fn serve(self: Arc<Self>, _: Negotiated, queues: Vec<Queue>) -> io::Result<Vec<Task>> {
        Ok(queues.into_iter().map(|queue| -> Task { Box::pin(serve(queue)) }).collect())
    }
}

/// Serves requests (virtio 1.2, 5.4.6).
async fn serve(queue: Queue) {
    let mut bytes = [0; MOST];
    loop {
        let Chain { readable, writable, token } = queue.next().await;
        if !readable.is_empty() || writable.is_empty() {
            token.refuse(Malformed("an entropy request with data, or without room"));
            continue;
        }
        let wanted = &mut bytes[..writable.len().min(MOST)];
        match retry_on_intr(|| getrandom(&mut *wanted, GetRandomFlags::empty())) {
            Ok(len) => {
                writable.copy_from(&wanted[..len]);
                token.complete(len as u32, ());
            }
            Err(e) => {
                executor::limited!(warn, "getrandom: {e}");
                token.refuse(Malformed("the host gives no random numbers"));
            }
        }
    }
}
