//! The memory that a guest can make its host hold: a disk whose storage takes only aligned buffers, and a
//! guest of 64 MiB whose requests are of any size. The guest needs no memory of its own for them, since many
//! descriptors may name the same page.

use std::alloc::{GlobalAlloc, Layout, System};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use async_trait::async_trait;
use block::chain;
use block::disk::{MOST_INSIDE, PIECE};
use block::storage::{Opener, Source, Storage};
use block::{Buf, Disk, DiskHandle, Kind, Result};
use executor::Thread;
use virtio::driver::{Driver, Interrupts, Piece, activation};
use virtio::{Device, VirtioDevice};
use virtio_bindings::virtio_blk::*;
use virtio_blk::{ErrorPolicy, Options, QUEUE_SIZE, VirtioBlk};
use vm_memory::{GuestAddress, GuestMemoryMmap};

/// Counts the bytes that the process has allocated, in all threads together.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: all calls go to the system's allocator; the counters are plain numbers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let in_use = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(in_use, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let in_use = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(in_use, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Size of the disk in bytes, which are stored nowhere.
const DISK: u64 = 1 << 40;

/// Number of bytes that were read, written, zeroed or discarded.
static MOVED: AtomicU64 = AtomicU64::new(0);

/// A disk of 1 TiB without content that takes only aligned buffers, as a file with O_DIRECT does: an
/// unaligned buffer needs a bounce buffer. Every operation takes a moment.
struct Void;

/// Returns the bounce buffer for an unaligned buffer: it counts, and is not touched.
fn bounce(buf: &Buf) -> Option<Vec<u8>> {
    (!buf.is_aligned(4096)).then(|| Vec::with_capacity(buf.len()))
}

async fn moved(len: u64) {
    executor::sleep(Duration::from_millis(1)).await;
    MOVED.fetch_add(len, Ordering::Relaxed);
}

#[async_trait(?Send)]
impl Source for Void {
    fn name(&self) -> &str {
        "void"
    }

    fn len(&self) -> u64 {
        DISK
    }

    async fn read(&self, _: u64, buf: Buf) -> Result<()> {
        let _bounce = bounce(&buf);
        moved(buf.len() as u64).await;
        Ok(())
    }

    fn is_fixed(&self) -> bool {
        true
    }
}

#[async_trait(?Send)]
impl Storage for Void {
    async fn write(&self, _: u64, buf: Buf) -> Result<()> {
        let _bounce = bounce(&buf);
        moved(buf.len() as u64).await;
        Ok(())
    }

    async fn truncate(&self, _: u64) -> Result<()> {
        Ok(())
    }

    async fn allocate(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }

    async fn punch(&self, _: u64, len: u64) -> Result<()> {
        moved(len).await;
        Ok(())
    }

    async fn discard(&self, _: u64, len: u64) -> Result<()> {
        moved(len).await;
        Ok(())
    }
}

#[async_trait(?Send)]
impl Opener for Void {
    async fn open(&self, _: &str, _: bool) -> Result<Rc<dyn Storage>> {
        Ok(Rc::new(Void))
    }
    async fn create(&self, _: &str) -> Result<Rc<dyn Storage>> {
        Ok(Rc::new(Void))
    }
}

const QUEUES: u16 = 4;
const RING: u16 = 256;
const SPACE: u64 = 4 << 20;
/// Start of the memory that all data descriptors name: one byte off any alignment.
const PAGE: u64 = (16 << 20) + 1;

struct Rig {
    device: VirtioDevice<VirtioBlk<Disk>>,
    drivers: Vec<Driver>,
    interrupts: Arc<Interrupts>,
    disk: DiskHandle,
    thread: Option<Thread>,
}

fn rig() -> Rig {
    let (sender, receiver) = channel();
    let main = move || async move {
        let files = Rc::new(Void);
        let leaf = chain::open(&*files, "void", Kind::Raw, true).await.unwrap();
        let disk = Disk::new("disk", leaf, false, files, |_| {});
        sender.send(disk.handle()).unwrap();
        disk.closed().await;
    };
    let thread = Thread::start("disk", main).unwrap();
    let disk = receiver.recv().unwrap();
    let options = Options {
        size: DISK,
        read_only: false,
        serial: String::new(),
        queues: QUEUES,
        errors: ErrorPolicy::report(),
    };
    let mut device = VirtioBlk::device(disk.clone(), options);
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 64 << 20)]).unwrap());
    let interrupts = Arc::<Interrupts>::default();
    interrupts.clear_used(QUEUES.into());
    let driver = |n: u64| Driver::new(memory.clone(), 0x1_0000 * (n + 1), SPACE + (n << 21), RING, true);
    let drivers: Vec<_> = (0..u64::from(QUEUES)).map(driver).collect();
    let activation = activation(&drivers, QUEUE_SIZE, device.features(), &interrupts);
    device.activate(activation).unwrap();
    Rig { device, drivers, interrupts, disk, thread: Some(thread) }
}

impl Rig {
    fn post(&mut self, queue: usize, kind: u32, sector: u64, data: &[Piece]) -> u64 {
        let driver = &mut self.drivers[queue];
        let header = driver.alloc(&[&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat());
        let status = driver.alloc(&[0xff]);
        let mut pieces = vec![Piece { address: header, len: 16, write: false }];
        pieces.extend(data);
        pieces.push(Piece { address: status, len: 1, write: true });
        driver.add(&pieces, true);
        status
    }

    /// Posts a read or write of `len` bytes in about `parts` descriptors of at most 40 MiB.
    fn post_data(&mut self, queue: usize, write: bool, len: u64, parts: u64) -> u64 {
        let each = (len / parts).min(40 << 20).next_multiple_of(512);
        let mut data = Vec::new();
        let mut at = 0;
        while at < len {
            let part = each.min(len - at);
            data.push(Piece { address: PAGE, len: part as u32, write: !write });
            at += part;
        }
        self.post(queue, if write { VIRTIO_BLK_T_OUT } else { VIRTIO_BLK_T_IN }, 8, &data)
    }

    /// Posts a request with 16 segments of 128 MiB, the maximum that is offered.
    fn post_ranges(&mut self, queue: usize, kind: u32) -> u64 {
        let segment = |n: u64| [&(n << 18).to_le_bytes()[..], &(1_u32 << 18).to_le_bytes(), &[0; 4]].concat();
        let bytes: Vec<u8> = (0..16).flat_map(segment).collect();
        let address = self.drivers[queue].alloc(&bytes);
        self.post(queue, kind, 0, &[Piece { address, len: 256, write: false }])
    }

    fn wait_used(&mut self, queue: usize, count: usize) {
        let mut seen = 0;
        while seen < count {
            let before = self.interrupts.counts().used[queue];
            self.drivers[queue].set_used_event(1);
            match self.drivers[queue].pop_used() {
                Some(_) => seen += 1,
                None => drop(self.interrupts.wait(|counts| counts.used[queue] > before)),
            }
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.device.reset();
        let closed = self.disk.remote().call({
            let disk = self.disk.clone();
            move || async move { disk.get().unwrap().close().await }
        });
        assert!(closed.wait().is_ok() || std::thread::panicking());
        let healthy = self.thread.take().is_none_or(Thread::join);
        assert!(healthy || std::thread::panicking(), "the disk's thread panicked");
    }
}

/// The counters are the process's, so everything is one test.
#[test]
fn requests_of_any_size_are_served_in_bounded_memory_and_nobody_waits_for_all_of_one() {
    let mut rig = rig();
    let bound = (MOST_INSIDE + PIECE) as usize;

    // One request at a time, of any size and any number of descriptors.
    let before = IN_USE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let most = (4 << 30) - 1024;
    let sizes = [(512, 1), (1 << 20, 1), (1 << 20, 254), (17 << 20, 254), (100 << 20, 40), (most, 254)];
    for (len, parts) in sizes {
        for write in [false, true] {
            let status = rig.post_data(0, write, len, parts);
            rig.drivers[0].publish();
            rig.wait_used(0, 1);
            assert_eq!(rig.drivers[0].get::<u8>(status), 0, "{len} in {parts}, write: {write}");
        }
    }
    let alone = PEAK.load(Ordering::Relaxed) - before;
    assert!(alone < PIECE as usize + (2 << 20), "{alone} bytes for one request");

    // As many requests as there is room for, on all queues at once, of all kinds; then a stop.
    PEAK.store(IN_USE.load(Ordering::Relaxed), Ordering::Relaxed);
    for queue in 0..usize::from(QUEUES) {
        for n in 0..u64::from(RING) {
            match n % 4 {
                0 => rig.post_data(queue, n % 8 == 0, (1 << 30) + 512 * n, 60),
                1 => rig.post_ranges(queue, VIRTIO_BLK_T_DISCARD),
                2 => rig.post_ranges(queue, VIRTIO_BLK_T_WRITE_ZEROES),
                _ => rig.post_data(queue, true, 512 * (n + 1), 1),
            };
        }
        rig.drivers[queue].publish();
    }
    // The disk is at work.
    let start = MOVED.load(Ordering::Relaxed);
    while MOVED.load(Ordering::Relaxed) < start + (1 << 30) {
        std::thread::yield_now();
    }
    let before_pause = MOVED.load(Ordering::Relaxed);
    // The pause begins when the disk's thread gets it; until then the thread goes on.
    let paused = rig.device.pause();
    paused.wait().unwrap();
    let waited = MOVED.load(Ordering::Relaxed) - before_pause;
    let together = PEAK.load(Ordering::Relaxed) - before;
    assert!(together < bound + (8 << 20), "{together} bytes for all requests");
    // The thread may do several turns before it gets the stop.
    assert!(waited <= 4 * bound as u64, "{waited} bytes before the stop");
    let stopped = MOVED.load(Ordering::Relaxed);
    rig.disk.remote().call(|| async { executor::sleep(Duration::from_millis(20)).await }).wait().unwrap();
    assert_eq!(MOVED.load(Ordering::Relaxed), stopped, "nothing goes on");
    assert_eq!(rig.interrupts.counts().needs_reset, 0);
    rig.device.resume();
    while MOVED.load(Ordering::Relaxed) < stopped + (1 << 30) {
        std::thread::yield_now();
    }
    // The reset drops the rest, which is hundreds of GiB.
    rig.device.reset();
}
