//! The device.

use std::io;
use std::sync::Arc;

use virtio::{Model, Negotiated, Queue, Task};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::VIRTIO_NET_S_LINK_UP;

use crate::config::{Config, FEATURES, QUEUE_SIZE, QUEUES};
use crate::link::Link;
use crate::mac::Mac;
use crate::serve;

/// A virtio network interface at the end of a [`Link`]. A link that is gone stays gone, through resets too.
pub struct VirtioNet {
    link: Arc<Link>,
    mac: Mac,
}

impl VirtioNet {
    /// Returns an interface with the address `mac`.
    pub fn new(link: Link, mac: Mac) -> Self {
        VirtioNet { link: Arc::new(link), mac }
    }
}

impl Model for VirtioNet {
    const ID: u32 = VIRTIO_ID_NET;
    type Config = Config;
    type Keep = ();

    fn features(&self) -> u64 {
        FEATURES
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; QUEUES]
    }

    fn config(&self) -> Config {
        let status = if self.link.has_gone() { 0 } else { VIRTIO_NET_S_LINK_UP as u16 };
        Config { mac: self.mac.bytes(), status: status.into() }
    }

    /// Changes once, when the link goes down.
    fn config_generation(&self) -> u32 {
        self.link.has_gone().into()
    }

    fn serve(self: Arc<Self>, driver: Negotiated, queues: Vec<Queue>) -> io::Result<Vec<Task>> {
        serve::tasks(self.link.clone(), driver, queues)
    }
}
