//! The device as its transport sees it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use executor::Reply;
use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_FLUSH};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_device::{Activation, Device};
use virtio_queue::QueueT;

use crate::active;
use crate::backend::Handle;
use crate::config::{Config, Options, QUEUE_SIZE, WRITEBACK, has};

/// A virtio block device (virtio 1.2, 5.2) in front of a disk that lives on a thread of its own.
///
/// What is asked here is done on that thread in the order of asking. Dropping an active device resets it
/// without waiting.
pub struct VirtioBlk<H: Handle> {
    handle: H,
    /// Names this device in the disk's thread.
    id: u64,
    config: Arc<Config>,
    /// The features negotiated, while active.
    active: Option<u64>,
    /// The driver's wish, where it wrote `writeback`.
    writeback: Option<bool>,
    paused: bool,
}

impl<H: Handle> VirtioBlk<H> {
    /// A device in front of the disk behind `handle`.
    pub fn new(handle: H, options: Options) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        VirtioBlk {
            handle,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            config: Arc::new(Config::new(options)),
            active: None,
            writeback: None,
            paused: false,
        }
    }

    /// What to tell when the disk's size changes; it may outlive the device.
    pub fn config(&self) -> Arc<Config> {
        self.config.clone()
    }

    /// The cache mode of a driver with `features` (virtio 1.2, 5.2.5.2 and 5.2.6.2): without
    /// CONFIG_WCE, and where `writeback` was not written, a driver that never flushes gets write-through.
    fn apply_cache_mode(&self, features: u64) {
        let flush = has(features, VIRTIO_BLK_F_FLUSH);
        let wish = self.writeback.filter(|_| has(features, VIRTIO_BLK_F_CONFIG_WCE));
        self.config.set_writeback(wish.unwrap_or(flush));
    }

    /// Back to power-on, as far as this side is concerned.
    fn deactivate(&mut self) -> bool {
        self.writeback = None;
        self.config.set_writeback(true);
        *self.config.interrupt() = None;
        self.active.take().is_some()
    }
}

impl<H: Handle> Device for VirtioBlk<H> {
    fn id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        self.config.features()
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; self.config.queues().into()]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let Some(value) = WRITEBACK.checked_sub(offset).and_then(|at| data.get(usize::try_from(at).ok()?))
        else {
            return;
        };
        self.writeback = Some(*value != 0);
        match self.active {
            Some(features) => self.apply_cache_mode(features),
            // Whether the driver may write it is known once it has negotiated.
            None => self.config.set_writeback(*value != 0),
        }
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let unfit = |queue: &virtio_device::ReadyQueue| {
            queue.queue.size() > QUEUE_SIZE || !queue.queue.is_valid(&*activation.memory)
        };
        if self.active.is_some() || activation.queues.iter().any(unfit) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        self.active = Some(activation.features);
        self.apply_cache_mode(activation.features);
        *self.config.interrupt() = Some(activation.interrupt.clone());
        let (id, handle, config, paused) = (self.id, self.handle.clone(), self.config.clone(), self.paused);
        self.handle.remote().spawn(move || {
            active::start(id, &handle, config, activation, paused);
            std::future::ready(())
        });
        Ok(())
    }

    fn reset(&mut self) {
        if self.deactivate() {
            let id = self.id;
            // An error says that the disk's thread has ended, and all that was in flight with it.
            let _ = self.handle.remote().call(move || active::reset::<H::Backend>(id)).wait();
        }
    }

    fn pause(&mut self) -> Reply<()> {
        self.paused = true;
        let id = self.id;
        self.handle.remote().call(move || active::pause::<H::Backend>(id))
    }

    fn resume(&mut self) {
        self.paused = false;
        let id = self.id;
        self.handle.remote().spawn(move || {
            active::resume::<H::Backend>(id);
            std::future::ready(())
        });
    }
}

impl<H: Handle> Drop for VirtioBlk<H> {
    fn drop(&mut self) {
        if self.deactivate() {
            let id = self.id;
            self.handle.remote().spawn(move || active::reset::<H::Backend>(id));
        }
    }
}
