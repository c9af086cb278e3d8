//! The device as its transport sees it.

use std::io;
use std::sync::Arc;

use executor::{Remote, Reply};
use virtio::{Activation, Device};
use virtio::{Queue, Runner};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;

use crate::config::{self, FEATURES, QUEUE_SIZE, QUEUES};
use crate::link::Link;
use crate::mac::Mac;
use crate::serve::{self, Driver};

/// A virtio network interface at the end of a [`Link`], which works on a thread that it is given.
///
/// That thread handles all calls in their order. Dropping an active device resets it without waiting. A link
/// that is gone stays gone, through resets too.
pub struct VirtioNet {
    runner: Runner,
    link: Arc<Link>,
    mac: Mac,
}

impl VirtioNet {
    /// Returns an interface with the address `mac`, which works on the executor behind `remote`.
    pub fn new(remote: Remote, link: Link, mac: Mac) -> Self {
        VirtioNet { runner: Runner::new(remote), link: Arc::new(link), mac }
    }
}

impl Device for VirtioNet {
    fn id(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; QUEUES]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config::read(self.mac, !self.link.has_gone(), offset, data);
    }

    /// Changes once, when the link goes down.
    fn config_generation(&self) -> u32 {
        self.link.has_gone().into()
    }

    /// Nothing is writable (virtio 1.2, 5.1.4).
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let link = self.link.clone();
        let driver = Driver::of(&activation);
        self.runner.start(activation, move |queues: Vec<Queue>| serve::tasks(link, driver, queues))
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
