//! The driver's side of one virtqueue (virtio 1.2, 2.7), the same for both devices. Every request is one
//! indirect descriptor. Completions are awaited by interrupts, which the driver enables only if it has
//! nothing else to do.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use bench::Latencies;
use guest_agent::pattern::mix;
use harness::Failure;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use virtio_bindings::virtio_blk::{VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{ByteValued, Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The number of descriptors of the queue, which limits the requests in flight.
pub const SIZE: u16 = 128;
pub const TABLE: u64 = 0;
pub const AVAIL: u64 = 0x1000;
pub const USED: u64 = 0x2000;
/// Size of the memory that the device sees, in bytes.
pub const MEMORY: usize = 32 << 20;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// The offset of the requests' own memory. Each slot is a page of headers, then its data.
const SLOTS: u64 = 0x10000;
const SLOT: u64 = 0x1000 + MAX_LEN as u64;
/// The longest request, in bytes.
pub const MAX_LEN: u32 = 128 << 10;
/// Offsets within a slot: the status byte, the indirect descriptors and the data. The header is at 0.
const STATUS: u64 = 16;
const INNER: u64 = 64;
const DATA: u64 = 0x1000;

/// The time after which a device that completes nothing ends the measurement.
const STUCK: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// The requests of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub write: bool,
    /// The length of each request, in bytes.
    pub len: u32,
    /// True for sequential offsets, false for random ones.
    pub sequential: bool,
    pub depth: u16,
    pub seed: u64,
}

/// One queue, and memory for it that another process can map.
pub struct Driver {
    pub memory: Arc<GuestMemoryMmap>,
    /// Written by the driver.
    pub kick: EventFd,
    /// Written by the device.
    pub call: EventFd,
    added: u16,
    /// The value of `added` when the driver last decided whether to kick.
    kicked: u16,
    taken: u16,
}

impl Driver {
    pub fn new() -> Result<Self, Failure> {
        let file = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC)?;
        let file = std::fs::File::from(file);
        file.set_len(MEMORY as u64)?;
        let range = (GuestAddress(0), MEMORY, Some(FileOffset::new(file, 0)));
        Ok(Driver {
            memory: Arc::new(GuestMemoryMmap::from_ranges_with_files([range])?),
            kick: EventFd::new(EFD_NONBLOCK)?,
            call: EventFd::new(EFD_NONBLOCK)?,
            added: 0,
            kicked: 0,
            taken: 0,
        })
    }

    fn put<T: ByteValued>(&self, value: T, address: u64) -> Result<(), Failure> {
        Ok(self.memory.write_obj(value, GuestAddress(address))?)
    }

    fn get<T: ByteValued>(&self, address: u64) -> Result<T, Failure> {
        Ok(self.memory.read_obj(GuestAddress(address))?)
    }

    /// Sends requests to a disk of `size` bytes for `time`. Returns their latencies.
    pub fn work(&mut self, load: Load, size: u64, time: Duration) -> Result<Latencies, Failure> {
        let Load { write, len, sequential, depth, seed } = load;
        if depth > SIZE || len > MAX_LEN {
            return Err("too many or too long requests for the memory".into());
        }
        for slot in 0..depth {
            self.describe(slot, len, write)?;
        }
        let places = size / u64::from(len);
        let mut random = seed;
        let mut next = 0;
        let mut place = || {
            random = mix(random);
            next += 1;
            let place = if sequential { next - 1 } else { random >> 8 };
            place % places * u64::from(len) / 512
        };
        let kind = if write { VIRTIO_BLK_T_OUT } else { VIRTIO_BLK_T_IN };
        let mut sent = vec![Instant::now(); usize::from(depth)];
        let mut latencies = Latencies::default();
        let end = Instant::now() + time;
        let mut free: Vec<u16> = (0..depth).collect();
        let mut in_flight = 0;
        loop {
            let now = Instant::now();
            if now < end {
                for slot in free.drain(..) {
                    self.add(slot, kind, place())?;
                    sent[usize::from(slot)] = now;
                    in_flight += 1;
                }
                self.publish()?;
            }
            if in_flight == 0 {
                return Ok(latencies);
            }
            while let Some(slot) = self.take()? {
                let status: u8 = self.get(SLOTS + u64::from(slot) * SLOT + STATUS)?;
                if status != 0 {
                    return Err(format!("a request failed with status {status}").into());
                }
                latencies.add(sent.get(usize::from(slot)).ok_or("no such request")?.elapsed());
                free.push(slot);
                in_flight -= 1;
            }
            if free.is_empty() || Instant::now() >= end && in_flight > 0 {
                self.wait()?;
            }
        }
    }

    /// Writes the descriptors of a slot, which are the same for all its requests.
    fn describe(&self, slot: u16, len: u32, write: bool) -> Result<(), Failure> {
        let at = SLOTS + u64::from(slot) * SLOT;
        let data = if write { 0 } else { WRITE };
        self.put(Descriptor::new(at, 16, NEXT, 1), at + INNER)?;
        self.put(Descriptor::new(at + DATA, len, NEXT | data, 2), at + INNER + 16)?;
        self.put(Descriptor::new(at + STATUS, 1, WRITE, 0), at + INNER + 32)?;
        self.put(Descriptor::new(at + INNER, 48, INDIRECT, 0), TABLE + 16 * u64::from(slot))
    }

    fn add(&mut self, slot: u16, kind: u32, sector: u64) -> Result<(), Failure> {
        let at = SLOTS + u64::from(slot) * SLOT;
        self.put(kind, at)?;
        self.put(sector, at + 8)?;
        self.put(0xff_u8, at + STATUS)?;
        self.put(slot, AVAIL + 4 + 2 * u64::from(self.added % SIZE))?;
        self.added = self.added.wrapping_add(1);
        Ok(())
    }

    /// Publishes the added requests, and kicks the device if it asked for that.
    fn publish(&mut self) -> Result<(), Failure> {
        let (old, new) = (self.kicked, self.added);
        if old == new {
            return Ok(());
        }
        self.memory.store(new, GuestAddress(AVAIL + 2), Ordering::Release)?;
        fence(Ordering::SeqCst);
        self.kicked = new;
        let event: u16 = self.get(USED + 4 + 8 * u64::from(SIZE))?;
        if new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old) {
            self.kick.write(1)?;
        }
        Ok(())
    }

    /// The next request that the device has completed.
    fn take(&mut self) -> Result<Option<u16>, Failure> {
        let index: u16 = self.memory.load(GuestAddress(USED + 2), Ordering::Acquire)?;
        if index == self.taken {
            return Ok(None);
        }
        let head: u32 = self.get(USED + 4 + 8 * u64::from(self.taken % SIZE))?;
        self.taken = self.taken.wrapping_add(1);
        Ok(Some(u16::try_from(head)?))
    }

    /// Enables the interrupt for the next completion and waits for it, unless the completion is there
    /// already.
    fn wait(&mut self) -> Result<(), Failure> {
        self.put(self.taken, AVAIL + 4 + 2 * u64::from(SIZE))?;
        fence(Ordering::SeqCst);
        let index: u16 = self.memory.load(GuestAddress(USED + 2), Ordering::Acquire)?;
        if index != self.taken {
            return Ok(());
        }
        let call = rustix_fd(&self.call);
        let mut fds = [PollFd::new(&call, PollFlags::IN)];
        if poll(&mut fds, Some(&STUCK))? == 0 {
            return Err("the device completes no more requests".into());
        }
        // If there is nothing to read, an earlier call read it.
        let _ = self.call.read();
        Ok(())
    }
}

fn rustix_fd(event: &EventFd) -> std::os::fd::BorrowedFd<'_> {
    use std::os::fd::{AsRawFd, BorrowedFd};
    // SAFETY: the descriptor is open as long as `event`, which is borrowed for the same time.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
