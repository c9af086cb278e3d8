//! Disk, device and driver, connected.

use block::disk::fake::{self, FakeDisk, FakeHandle};
use std::sync::{Arc, Mutex};

use block::OnError;
use executor::Thread;
use virtio::driver::{Driver, Interrupts, Piece};
use virtio::{Activation, Device, ReadyQueue, VirtioDevice};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_blk::{ErrorPolicy, IoError, Options, QUEUE_SIZE, VirtioBlk};
use vm_memory::{GuestAddress, GuestMemoryMmap};

#[derive(Clone, Debug)]
pub struct Setup {
    pub size: usize,
    pub queues: u16,
    pub ring: u16,
    pub read_only: bool,
    pub event_idx: bool,
    /// Features that the driver does not accept.
    pub without: u64,
    pub on_read: OnError,
    pub on_write: OnError,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            size: 1 << 20,
            queues: 1,
            ring: 16,
            read_only: false,
            event_idx: true,
            without: 0,
            on_read: OnError::Report,
            on_write: OnError::Report,
        }
    }
}

pub struct Rig {
    pub device: VirtioDevice<VirtioBlk<FakeDisk>>,
    pub disk: FakeHandle,
    pub interrupts: Arc<Interrupts>,
    pub drivers: Vec<Driver>,
    pub memory: Arc<GuestMemoryMmap>,
    /// The errors that the device reported.
    pub errors: Arc<Mutex<Vec<IoError>>>,
    setup: Setup,
    thread: Option<Thread>,
}

/// Guest memory: two regions without a gap, for descriptors across their border, and nothing behind them.
pub const BORDER: u64 = 8 << 20;
pub const END: u64 = 16 << 20;

pub fn memory() -> Arc<GuestMemoryMmap> {
    let regions = [(GuestAddress(0), BORDER as usize), (GuestAddress(BORDER), (END - BORDER) as usize)];
    Arc::new(GuestMemoryMmap::from_ranges(&regions).unwrap())
}

impl Rig {
    /// Returns a rig with an active device.
    pub fn new(setup: Setup) -> Self {
        let mut rig = Self::inactive(setup);
        rig.activate();
        rig
    }

    pub fn inactive(setup: Setup) -> Self {
        let (thread, disk) = fake::start(setup.size);
        let read_only = setup.read_only;
        disk.with(move |disk| disk.read_only.set(read_only));
        let errors = Arc::new(Mutex::new(Vec::new()));
        let told = errors.clone();
        let options = Options {
            size: setup.size as u64,
            read_only,
            serial: "a serial of more than twenty bytes".into(),
            queues: setup.queues,
            errors: ErrorPolicy {
                read: setup.on_read,
                write: setup.on_write,
                listener: Arc::new(move |error| told.lock().unwrap().push(error)),
            },
        };
        Rig {
            device: VirtioBlk::device(disk.handle(), options),
            disk,
            interrupts: Arc::default(),
            drivers: Vec::new(),
            memory: memory(),
            errors,
            setup,
            thread: Some(thread),
        }
    }

    pub fn features(&self) -> u64 {
        let mut without = self.setup.without;
        if !self.setup.event_idx {
            without |= 1 << VIRTIO_RING_F_EVENT_IDX;
        }
        self.device.features() & !without
    }

    /// Makes new drivers on the same memory, and sets DRIVER_OK.
    pub fn activate(&mut self) {
        let count = self.setup.queues;
        self.drivers = (0..u64::from(count))
            .map(|n| {
                let heap = (1 << 20) * (1 + n);
                let base = 0x10000 * (n + 1);
                Driver::new(self.memory.clone(), base, heap, self.setup.ring, self.setup.event_idx)
            })
            .collect();
        for driver in &self.drivers {
            let zeros = vec![0u8; 0x10000];
            vm_memory::Bytes::write_slice(&*self.memory, &zeros, GuestAddress(driver.table())).unwrap();
        }
        self.interrupts.clear_used(count.into());
        self.start().unwrap();
    }

    /// Sets DRIVER_OK with the drivers as they are.
    pub fn start(&mut self) -> std::io::Result<()> {
        let ready = |(index, driver): (usize, &Driver)| ReadyQueue {
            index: index as u16,
            queue: driver.queue(QUEUE_SIZE),
            kick: driver.kick.try_clone().unwrap(),
        };
        let activation = Activation {
            memory: self.memory.clone(),
            features: self.features(),
            queues: self.drivers.iter().enumerate().map(ready).collect(),
            interrupt: self.interrupts.clone(),
        };
        self.device.activate(activation)
    }

    pub fn indirect(&self) -> bool {
        self.features() & (1 << VIRTIO_RING_F_INDIRECT_DESC) != 0
    }

    /// Adds a request of the usual three descriptors. `data` is the data to write, or the room to read into.
    pub fn add(&mut self, queue: usize, kind: u32, sector: u64, data: Data) -> Posted {
        let driver = &mut self.drivers[queue];
        let header = driver.alloc(&header(kind, sector));
        let (bytes, write) = match data {
            Data::Out(bytes) => (bytes.to_vec(), false),
            Data::In(len) => (vec![0xee; len], true),
        };
        let data = driver.alloc(&bytes);
        let status = driver.alloc(&[0xff]);
        let mut pieces = vec![Piece { address: header, len: 16, write: false }];
        if !bytes.is_empty() {
            pieces.push(Piece { address: data, len: bytes.len() as u32, write });
        }
        pieces.push(Piece { address: status, len: 1, write: true });
        let head = driver.add(&pieces, false);
        Posted { queue, head, data, status }
    }

    /// Waits for the next used entry by interrupts alone, as a driver does.
    pub fn wait_used(&mut self, queue: usize) -> (u16, u32) {
        loop {
            let before = self.interrupts.counts().used[queue];
            let driver = &mut self.drivers[queue];
            driver.set_used_event(1);
            if let Some(used) = driver.pop_used() {
                return used;
            }
            self.interrupts.wait(|counts| counts.used[queue] > before);
        }
    }

    /// Runs one request. Returns its status, the length in the used entry, and the data area afterwards.
    pub fn request(&mut self, kind: u32, sector: u64, data: Data) -> (u8, u32, Vec<u8>) {
        let len = data.len();
        let posted = self.add(0, kind, sector, data);
        self.drivers[0].publish();
        let (head, written) = self.wait_used(0);
        assert_eq!(head, posted.head);
        let driver = &self.drivers[0];
        (driver.get(posted.status), written, driver.bytes(posted.data, len))
    }

    pub fn status(&self, posted: &Posted) -> u8 {
        self.drivers[posted.queue].get(posted.status)
    }

    /// Waits until the device reports that it needs a reset, and checks that it reports so once.
    pub fn expect_needs_reset(&self) {
        self.interrupts.wait(|counts| counts.needs_reset > 0);
        self.disk.settle();
        assert_eq!(self.interrupts.counts().needs_reset, 1);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.disk.with(|disk| disk.stop.notify());
        let healthy = self.thread.take().is_none_or(Thread::join);
        assert!(healthy || std::thread::panicking(), "the disk's thread panicked");
    }
}

#[derive(Clone, Copy)]
pub enum Data<'a> {
    Out(&'a [u8]),
    In(usize),
}

impl Data<'_> {
    fn len(&self) -> usize {
        match self {
            Data::Out(bytes) => bytes.len(),
            Data::In(len) => *len,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Posted {
    pub queue: usize,
    pub head: u16,
    pub data: u64,
    pub status: u64,
}

pub fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    header
}
