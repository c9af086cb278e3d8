//! Link, device and drivers of the two queues, connected.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use executor::{Thread, yield_now};
use virtio::driver::{Driver, Interrupts, Piece, activation};
use virtio::{Device, VirtioDevice};
use virtio_net::{Link, QUEUE_SIZE, VirtioNet};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

pub const RECEIVE: usize = 0;
pub const TRANSMIT: usize = 1;

/// Number of bytes before each frame (virtio 1.2, 5.1.6).
pub const HEADER: usize = 12;
/// VIRTIO_NET_F_MRG_RXBUF and VIRTIO_NET_F_STATUS.
pub const MERGEABLE: u64 = 1 << 15;
pub const STATUS: u64 = 1 << 16;

pub const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const RING: u16 = 16;
/// Longer than any healthy step takes.
const STUCK: Duration = Duration::from_secs(20);

pub struct Rig {
    pub device: VirtioDevice<VirtioNet>,
    pub interrupts: Arc<Interrupts>,
    pub drivers: Vec<Driver>,
    pub thread: Thread,
    /// The other end of the cable.
    pub peer: UnixStream,
    memory: Arc<GuestMemoryMmap>,
    without: u64,
}

impl Rig {
    pub fn new() -> Self {
        Self::without(0)
    }

    /// Returns a rig whose driver does not know some of the features.
    pub fn without(features: u64) -> Self {
        let (ours, peer) = UnixStream::pair().unwrap();
        peer.set_read_timeout(Some(STUCK)).unwrap();
        peer.set_write_timeout(Some(STUCK)).unwrap();
        Self::on(Link::stream(ours, "peer").unwrap(), peer, features)
    }

    /// Returns a rig with a device on this link, at whose other end `peer` should be.
    pub fn on(link: Link, peer: UnixStream, without: u64) -> Self {
        let thread = Thread::start("devices", std::future::pending).unwrap();
        let mac = "52:54:00:01:02:03".parse().unwrap();
        let mut rig = Rig {
            device: VirtioDevice::new(thread.remote().clone(), VirtioNet::new(link, mac)),
            interrupts: Arc::default(),
            drivers: Vec::new(),
            thread,
            peer,
            memory: Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 8 << 20)]).unwrap()),
            without,
        };
        rig.activate();
        rig
    }

    /// Makes new drivers, and sets DRIVER_OK.
    pub fn activate(&mut self) {
        let driver = |n: u64| {
            let (base, heap) = (0x1_0000 * (n + 1), (2 << 20) * (n + 1));
            self.memory.write_slice(&[0; 0x1_0000], GuestAddress(base)).unwrap();
            Driver::new(self.memory.clone(), base, heap, RING, true)
        };
        self.drivers = (0..2).map(driver).collect();
        self.interrupts.clear_used(2);
        let activation =
            activation(&self.drivers, QUEUE_SIZE, self.device.features() & !self.without, &self.interrupts);
        self.device.activate(activation).unwrap();
    }

    /// Offers a chain of these pieces; true for those that the device writes. Returns the address of each.
    pub fn offer(&mut self, queue: usize, pieces: &[(&[u8], bool)]) -> Vec<u64> {
        let driver = &mut self.drivers[queue];
        let place = |(bytes, write): &(&[u8], bool)| {
            let address = driver.alloc(bytes);
            Piece { address, len: bytes.len() as u32, write: *write }
        };
        let pieces: Vec<_> = pieces.iter().map(place).collect();
        driver.add(&pieces, false);
        driver.publish();
        pieces.into_iter().map(|piece| piece.address).collect()
    }

    /// Offers room to receive `len` bytes.
    pub fn room(&mut self, len: usize) -> u64 {
        self.offer(RECEIVE, &[(&vec![0xee; len], true)])[0]
    }

    /// Sends a frame of the guest.
    pub fn send(&mut self, frame: &[u8]) {
        self.offer(TRANSMIT, &[(&[0; HEADER], false), (frame, false)]);
    }

    /// Reuses the buffers of a queue.
    pub fn rewind(&mut self, queue: usize) {
        self.drivers[queue].heap = (2 << 20) * (queue as u64 + 1);
    }

    /// Waits for the next used entry by interrupts alone, and returns its length.
    pub fn used(&mut self, queue: usize) -> usize {
        loop {
            let before = self.interrupts.counts().used[queue];
            let driver = &mut self.drivers[queue];
            driver.set_used_event(1);
            if let Some((_, len)) = driver.pop_used() {
                return len as usize;
            }
            self.interrupts.wait(|counts| counts.used[queue] > before);
        }
    }

    /// Returns the frame that was received into one chain, at `address`.
    pub fn received(&mut self, address: u64) -> Vec<u8> {
        let len = self.used(RECEIVE);
        let bytes = self.drivers[RECEIVE].bytes(address, len);
        assert_eq!(bytes[..HEADER], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        bytes[HEADER..].to_vec()
    }

    /// Sends a frame to the guest.
    pub fn peer_sends(&mut self, frame: &[u8]) {
        let bytes = [&(frame.len() as u32).to_be_bytes()[..], frame].concat();
        self.peer.write_all(&bytes).unwrap();
    }

    /// Returns the next frame from the guest.
    pub fn peer_receives(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.peer.read_exact(&mut length).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.peer.read_exact(&mut frame).unwrap();
        frame
    }

    /// Checks that nothing more came from the guest, once the device has done all that it can do by now.
    pub fn peer_has_nothing(&mut self) {
        self.settle();
        self.peer.set_nonblocking(true).unwrap();
        assert_eq!(self.peer.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        self.peer.set_nonblocking(false).unwrap();
    }

    /// Lets the device's thread do all that it can do by now.
    pub fn settle(&self) {
        let turns = || async {
            for _ in 0..50 {
                yield_now().await;
            }
        };
        self.thread.remote().call(turns).wait().unwrap();
    }

    pub fn link_is_up(&self) -> bool {
        let mut status = [0; 2];
        self.device.read_config(6, &mut status);
        u16::from_le_bytes(status) & 1 != 0
    }
}

/// Returns a frame of `len` bytes whose content depends on `seed`.
pub fn frame(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 256 + seed * 7) as u8).collect()
}
