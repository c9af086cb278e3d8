//! The virtio entropy device (virtio 1.2, 5.4): the host's random numbers for a guest.
//!
//! A fresh VM has few sources of entropy. Without this device, early readers of random numbers may wait for
//! long.
//!
//! A request is a chain with room, and nothing else. It gets at most [`MOST`] bytes, whatever its room: a
//! driver that wants more asks again, and the queue lets others run before that. The bytes come from
//! getrandom(2), which never waits on a host that has booted.

use std::io;

use executor::{Remote, Reply};
use rustix::io::retry_on_intr;
use rustix::rand::{GetRandomFlags, getrandom};
use virtio::{Activation, Device};
use virtio::{Chain, Malformed, Queue, Runner, Task};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// Size of the queue, in descriptors; also the number of requests that are served before others have a turn.
pub const QUEUE_SIZE: u16 = 8;

/// Maximum number of bytes in the reply to one request.
pub const MOST: usize = 4096;

/// A virtio entropy device, which works on a thread that it is given.
///
/// That thread handles all calls in their order. Dropping an active device resets it without waiting.
pub struct VirtioRng {
    runner: Runner,
}

impl VirtioRng {
    /// Returns a device that works on the executor behind `remote`.
    pub fn new(remote: Remote) -> Self {
        VirtioRng { runner: Runner::new(remote) }
    }
}

impl Device for VirtioRng {
    fn id(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    /// There is no config space (virtio 1.2, 5.4.4).
    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let tasks = |queues: Vec<Queue>| Some(queues.into_iter().map(|queue| task(serve(queue))).collect());
        self.runner.start(activation, tasks)
    }

    fn reset(&mut self) {
        self.runner.reset();
    }

    fn pause(&mut self) -> Reply<()> {
        self.runner.pause()
    }

    fn resume(&mut self) {
        self.runner.resume();
    }
}

fn task(work: impl Future<Output = ()> + 'static) -> Task {
    Box::pin(work)
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
