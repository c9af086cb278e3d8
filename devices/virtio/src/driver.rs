//! For tests of devices and for fuzzers: the driver's side of a split virtqueue (virtio 1.2, 2.7), with ways
//! to break every rule of it, and a transport's interrupts. Everything here panics if it is misused.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Activation, Interrupt, ReadyQueue};
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// VIRTQ_DESC_F_NEXT (virtio 1.2, 2.7.5).
pub const NEXT: u16 = 1;
/// VIRTQ_DESC_F_WRITE.
pub const WRITE: u16 = 2;
/// VIRTQ_DESC_F_INDIRECT.
pub const INDIRECT: u16 = 4;

/// Longer than any healthy step takes; a request that is stuck fails the test after this time.
const STUCK: Duration = Duration::from_secs(20);

/// Numbers of interrupts from a device.
#[derive(Default, Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// For used buffers, by queue.
    pub used: Vec<u64>,
    /// For a change of the config space.
    pub config: u64,
    /// For DEVICE_NEEDS_RESET.
    pub needs_reset: u64,
}

/// Counts a device's interrupts.
#[derive(Default)]
pub struct Interrupts {
    counts: Mutex<Counts>,
    changed: Condvar,
}

impl Interrupts {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the interrupts so far.
    pub fn counts(&self) -> Counts {
        self.lock().clone()
    }

    /// Sets the counts for used buffers to zero, for `queues` queues.
    pub fn clear_used(&self, queues: usize) {
        self.lock().used = vec![0; queues];
    }

    fn change(&self, f: impl FnOnce(&mut Counts)) {
        f(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `enough` is true, and fails the test if that takes too long.
    pub fn wait(&self, enough: impl Fn(&Counts) -> bool) -> Counts {
        let (counts, late) = self.changed.wait_timeout_while(self.lock(), STUCK, |c| !enough(c)).unwrap();
        assert!(!late.timed_out(), "stuck: {counts:?}");
        counts.clone()
    }
}

impl Interrupt for Interrupts {
    fn used(&self, index: u16) {
        self.change(|counts| counts.used[usize::from(index)] += 1);
    }
    fn config_changed(&self) {
        self.change(|counts| counts.config += 1);
    }
    fn needs_reset(&self) {
        self.change(|counts| counts.needs_reset += 1);
    }
}

/// Returns what a transport hands to a device at DRIVER_OK: these queues in order, each of at most `max`
/// descriptors.
pub fn activation(drivers: &[Driver], max: u16, features: u64, interrupts: &Arc<Interrupts>) -> Activation {
    let ready = |(index, driver): (usize, &Driver)| ReadyQueue {
        index: index as u16,
        queue: driver.queue(max),
        kick: driver.kick.try_clone().expect("an eventfd"),
    };
    Activation {
        memory: drivers[0].memory.clone(),
        features,
        queues: drivers.iter().enumerate().map(ready).collect(),
        interrupt: interrupts.clone(),
    }
}

/// The memory of one descriptor of a request.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Address in guest memory.
    pub address: u64,
    /// Length in bytes.
    pub len: u32,
    /// True if the device writes it.
    pub write: bool,
}

/// The driver of one queue.
pub struct Driver {
    /// The guest's memory.
    pub memory: Arc<GuestMemoryMmap>,
    /// Written to notify the device.
    pub kick: EventFd,
    /// Number of entries of each ring.
    pub size: u16,
    base: u64,
    event_idx: bool,
    free: Vec<u16>,
    /// The descriptors of the chain of each head.
    chains: Vec<Vec<u16>>,
    /// The available index that is published next.
    pub next_avail: u16,
    /// The value of `next_avail` when a kick was last considered.
    kicked: u16,
    /// The used index up to which entries were popped.
    pub last_used: u16,
    /// Address of the next buffer.
    pub heap: u64,
}

impl Driver {
    /// Returns a driver with rings at `base`, in 64 KiB of their own, and buffers from `heap` on.
    pub fn new(memory: Arc<GuestMemoryMmap>, base: u64, heap: u64, size: u16, event_idx: bool) -> Self {
        Driver {
            memory,
            kick: EventFd::new(EFD_NONBLOCK).unwrap(),
            size,
            base,
            event_idx,
            free: (0..size).rev().collect(),
            chains: vec![Vec::new(); size.into()],
            next_avail: 0,
            kicked: 0,
            last_used: 0,
            heap,
        }
    }

    /// Returns the address of the descriptor table.
    pub fn table(&self) -> u64 {
        self.base
    }
    /// Returns the address of the available ring.
    pub fn avail(&self) -> u64 {
        self.base + 0x4000
    }
    /// Returns the address of the used ring.
    pub fn used(&self) -> u64 {
        self.base + 0x8000
    }

    /// Returns the queue as a transport hands it to the device.
    pub fn queue(&self, max: u16) -> Queue {
        let mut queue = Queue::new(max).unwrap();
        queue.set_size(self.size);
        queue.set_desc_table_address(Some(self.table() as u32), Some(0));
        queue.set_avail_ring_address(Some(self.avail() as u32), Some(0));
        queue.set_used_ring_address(Some(self.used() as u32), Some(0));
        queue.set_ready(true);
        queue
    }

    /// Writes a value to guest memory.
    pub fn put<T: vm_memory::ByteValued>(&self, value: T, address: u64) {
        self.memory.write_obj(value, GuestAddress(address)).unwrap();
    }

    /// Reads a value from guest memory.
    pub fn get<T: vm_memory::ByteValued>(&self, address: u64) -> T {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }

    /// Reads bytes from guest memory.
    pub fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// Allocates room for `bytes` and writes them there. Returns its address.
    pub fn alloc(&mut self, bytes: &[u8]) -> u64 {
        let address = self.heap;
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
        self.heap += bytes.len() as u64;
        address
    }

    /// Writes descriptor `index` of `table`.
    pub fn describe(&self, table: u64, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        self.put(Descriptor::new(address, len, flags, next), table + 16 * u64::from(index));
    }

    /// Returns the number of descriptors that are in no chain.
    pub fn free_descriptors(&self) -> usize {
        self.free.len()
    }

    /// Puts a chain into the available ring, which the device does not see before [`Driver::publish`].
    /// Returns the chain's head.
    pub fn add(&mut self, pieces: &[Piece], indirect: bool) -> u16 {
        let table = if indirect { self.alloc(&vec![0; pieces.len() * 16]) } else { self.table() };
        let taken: Vec<u16> =
            (0..if indirect { 1 } else { pieces.len() }).map(|_| self.free.pop().expect("room")).collect();
        for (at, piece) in pieces.iter().enumerate() {
            let last = at + 1 == pieces.len();
            let index = if indirect { at as u16 } else { taken[at] };
            let next = match last {
                true => 0,
                false if indirect => at as u16 + 1,
                false => taken[at + 1],
            };
            let flags = if piece.write { WRITE } else { 0 } | if last { 0 } else { NEXT };
            self.describe(table, index, piece.address, piece.len, flags, next);
        }
        let head = taken[0];
        if indirect {
            self.describe(self.table(), head, table, pieces.len() as u32 * 16, INDIRECT, 0);
        }
        self.chains[usize::from(head)] = taken;
        self.add_head(head);
        head
    }

    /// Puts a head into the available ring.
    pub fn add_head(&mut self, head: u16) {
        self.put(head, self.avail() + 4 + 2 * u64::from(self.next_avail % self.size));
        self.next_avail = self.next_avail.wrapping_add(1);
    }

    /// Publishes an available index, right or wrong.
    pub fn set_avail_index(&self, index: u16) {
        self.memory.store(index, GuestAddress(self.avail() + 2), Ordering::Release).unwrap();
    }

    /// Shows the device what was added, and kicks it if it wants that. Returns true if it kicked.
    pub fn publish(&mut self) -> bool {
        self.set_avail_index(self.next_avail);
        fence(Ordering::SeqCst);
        let (old, new) = (self.kicked, self.next_avail);
        self.kicked = new;
        let wanted = if self.event_idx {
            let event: u16 = self.get(self.used() + 4 + 8 * u64::from(self.size));
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.get::<u16>(self.used()) & 1 == 0
        };
        if wanted {
            self.kick.write(1).unwrap();
        }
        wanted
    }

    /// Pops the next used entry: head and length.
    pub fn pop_used(&mut self) -> Option<(u16, u32)> {
        let index = self.memory.load::<u16>(GuestAddress(self.used() + 2), Ordering::Acquire).unwrap();
        if index == self.last_used {
            return None;
        }
        let entry = self.used() + 4 + 8 * u64::from(self.last_used % self.size);
        let (head, len) = (self.get::<u32>(entry) as u16, self.get::<u32>(entry + 4));
        self.last_used = self.last_used.wrapping_add(1);
        let chain = std::mem::take(&mut self.chains[usize::from(head)]);
        assert!(!chain.is_empty(), "a used entry for {head}, which is not in flight");
        self.free.extend(chain);
        Some((head, len))
    }

    /// Asks for an interrupt once `more` further entries are used (EVENT_IDX).
    pub fn set_used_event(&self, more: u16) {
        let event = self.last_used.wrapping_add(more).wrapping_sub(1);
        self.put(event, self.avail() + 4 + 2 * u64::from(self.size));
        fence(Ordering::SeqCst);
    }

    /// Sets or clears VIRTQ_AVAIL_F_NO_INTERRUPT.
    pub fn set_no_interrupt(&self, on: bool) {
        self.put(u16::from(on), self.avail());
    }
}
