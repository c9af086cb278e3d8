//! Requests of a guest to a virtio block device whose storage accepts only aligned buffers. They have
//! any size and any number of descriptors, which may all name the same memory, and come with or without
//! a kick.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use async_trait::async_trait;
use block::chain;
use block::disk::{MOST_INSIDE, PIECE};
use block::storage::{Opener, Source, Storage};
use block::{Buf, Disk, Kind, Result};
use executor::{Executor, yield_now};
use virtio::driver::{Driver, Interrupts, Piece, activation};
use virtio::{Device, VirtioDevice};
use virtio_blk::{ErrorPolicy, Options, QUEUE_SIZE, VirtioBlk};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::chains::{pause, settle};

/// Length of a step, in bytes: its kind, the number of descriptors or segments, the size of each, their
/// place, and two numbers.
const STEP: usize = 12;

/// Guest memory, in bytes, most of it untouched. The rings are at its start, followed by the requests.
const MEMORY: usize = 24 << 20;
const HEAP: u64 = 1 << 20;
/// The address of all data.
const DATA: u64 = 4 << 20;
/// The longest descriptor, in bytes; with it the longest request has nearly 4 GiB.
const PART: u32 = 16 << 20;

const QUEUES: u16 = 2;
const RING: u16 = 64;
/// Size of the disk, in bytes.
const DISK: u64 = 1 << 40;
/// The alignment of addresses, offsets and lengths that the storage requires, in bytes.
const ALIGNMENT: usize = 4096;

/// A disk of zeros that stores nothing, of any size.
struct Aligned {
    /// The bytes of all requests that have ended.
    moved: Rc<Cell<u64>>,
}

impl Aligned {
    async fn work(&self, len: u64) {
        for _ in 0..3 {
            yield_now().await;
        }
        self.moved.set(self.moved.get() + len);
    }
}

/// Allocates memory in place of a buffer that is not aligned, as a file with O_DIRECT needs it. It
/// counts as memory in use, but is not touched.
fn bounce(offset: u64, buf: &Buf) -> Option<Vec<u8>> {
    let fits = offset.is_multiple_of(ALIGNMENT as u64) && buf.is_aligned(ALIGNMENT);
    (!fits).then(|| Vec::with_capacity(buf.len().next_multiple_of(ALIGNMENT)))
}

#[async_trait(?Send)]
impl Source for Aligned {
    fn name(&self) -> &str {
        "disk"
    }

    fn len(&self) -> u64 {
        DISK
    }

    async fn read(&self, offset: u64, buf: Buf) -> Result<()> {
        let _bounce = bounce(offset, &buf);
        self.work(buf.len() as u64).await;
        // Zeroing everything would take long.
        buf.slice(0..buf.len().min(512)).zero();
        Ok(())
    }

    fn is_fixed(&self) -> bool {
        true
    }
}

#[async_trait(?Send)]
impl Storage for Aligned {
    async fn write(&self, offset: u64, buf: Buf) -> Result<()> {
        let _bounce = bounce(offset, &buf);
        self.work(buf.len() as u64).await;
        Ok(())
    }

    async fn truncate(&self, _: u64) -> Result<()> {
        Ok(())
    }

    async fn allocate(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }

    async fn punch(&self, _: u64, len: u64) -> Result<()> {
        self.work(len).await;
        Ok(())
    }

    async fn discard(&self, _: u64, len: u64) -> Result<()> {
        self.work(len).await;
        Ok(())
    }
}

struct Files(Rc<Aligned>);

#[async_trait(?Send)]
impl Opener for Files {
    async fn open(&self, _: &str, _: bool) -> Result<Rc<dyn Storage>> {
        Ok(self.0.clone())
    }
    async fn create(&self, _: &str) -> Result<Rc<dyn Storage>> {
        Ok(self.0.clone())
    }
}

/// Performs the steps of the input one after the other: requests, and stops of the machine.
pub fn blk(input: &[u8]) {
    let Ok(executor) = Executor::new() else { return };
    let input = input.to_vec();
    executor.block_on(async move { run(&input).await });
}

async fn run(input: &[u8]) {
    let moved = Rc::<Cell<u64>>::default();
    let files = Rc::new(Files(Rc::new(Aligned { moved: moved.clone() })));
    let Ok(leaf) = chain::open(&*files, "disk", Kind::Raw, true).await else { return };
    let disk = Disk::new("disk", leaf, false, files, |_| {});
    let options = Options {
        size: DISK,
        read_only: false,
        serial: "disk".to_owned(),
        queues: QUEUES,
        errors: ErrorPolicy::report(),
    };
    let mut device = VirtioBlk::device(disk.handle(), options);
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
    let memory = Arc::new(memory);
    let interrupts = Arc::<Interrupts>::default();
    interrupts.clear_used(QUEUES.into());
    let driver = |n: u64| Driver::new(memory.clone(), (n + 1) * 0x1_0000, HEAP * (n + 1), RING, true);
    let mut drivers: Vec<_> = (0..u64::from(QUEUES)).map(driver).collect();
    let activation = activation(&drivers, QUEUE_SIZE, device.features(), &interrupts);
    device.activate(activation).expect("good rings");
    for step in input.chunks_exact(STEP) {
        if step[0] % 8 == 7 {
            stop(&mut device, &moved).await;
            device.resume();
        } else {
            send(step, &mut drivers);
        }
        if !settle(&mut drivers, &interrupts).await {
            break;
        }
    }
    stop(&mut device, &moved).await;
}

/// Stops the device. Checks that it waits only for the bytes that may be in flight, whatever was
/// requested.
async fn stop(device: &mut VirtioDevice<VirtioBlk<block::Disk>>, moved: &Cell<u64>) {
    let before = moved.get();
    pause(device).await;
    let waited = moved.get() - before;
    // It takes some turns of the executor until the device is notified of the stop.
    assert!(waited <= 4 * (MOST_INSIDE + PIECE), "a stop waited for {waited} bytes");
}

/// Offers a request if there is a descriptor for it.
fn send(step: &[u8], drivers: &mut [Driver]) {
    let &[kind, count, size, place, a, b, c, d, e, f, g, h] = step else { return };
    let (one, two) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    let queue = usize::from(place & 1);
    let driver = &mut drivers[queue];
    if driver.free_descriptors() == 0 {
        return;
    }
    // Requests are placed one after the other. After many of them, the first place is used again.
    if driver.heap > HEAP * (queue as u64 + 1) + (HEAP - 0x1_0000) {
        driver.heap = HEAP * (queue as u64 + 1);
    }
    let is_write = matches!(kind % 8, 1 | 3);
    let what: u32 = match kind % 8 {
        0 | 2 => 0,
        1 | 3 => 1,
        4 => 11,
        5 => 13,
        _ => one,
    };
    let header = [&what.to_le_bytes()[..], &[0; 4], &u64::from(two).to_le_bytes()].concat();
    let header = driver.alloc(&header);
    let mut pieces = vec![Piece { address: header, len: 16, write: false }];
    match kind % 8 {
        4 | 5 => {
            let segment = [&u64::from(two).to_le_bytes()[..], &one.to_le_bytes(), &[0; 4]].concat();
            let segments = segment.repeat(usize::from(count % 18));
            let address = driver.alloc(&segments);
            let len = segments.len() as u32 + u32::from(size == 0xff);
            pieces.extend((len > 0).then_some(Piece { address, len, write: false }));
        }
        _ => {
            let len = (512 << (size % 16)).min(PART) + u32::from(place & 0x80 != 0);
            let address = DATA + u64::from(place & 0x7e);
            pieces.extend((0..count).map(|_| Piece { address, len, write: !is_write }));
        }
    }
    let status = driver.alloc(&[0xff]);
    pieces.push(Piece { address: status, len: 1, write: true });
    driver.add(&pieces, true);
    match size & 0x40 == 0 {
        true => drop(driver.publish()),
        // Published without a kick: the device finds it at the next kick.
        false => driver.set_avail_index(driver.next_avail),
    }
}

/// Encodes a step.
fn step(kind: u8, count: u8, size: u8, place: u8, one: u32, two: u32) -> Vec<u8> {
    [&[kind, count, size, place][..], &one.to_le_bytes(), &two.to_le_bytes()].concat()
}

pub(crate) fn corpus() -> Vec<Vec<u8>> {
    // The sizes of a descriptor: 2^7 or 2^15 sectors of 512 bytes.
    const LONG: u8 = 7;
    const LONGEST: u8 = 15;
    let data = [
        step(0, 1, 0, 0, 0, 8),
        step(1, 254, LONG, 2, 0, 1),
        step(0, 254, LONGEST, 2, 0, 1),
        step(1, 254, LONGEST, 3, 0, 0),
        step(7, 0, 0, 0, 0, 0),
        step(0, 33, LONGEST, 0, 0, 1 << 20),
        step(6, 0, 0, 1, 4, 0),
        step(6, 1, 0, 1, 8, 0),
    ];
    let zeros = [
        step(5, 16, 0, 0, 1 << 18, 1),
        step(4, 16, 0, 1, 1 << 18, 1),
        step(4, 1, 0, 1, 8, 4096),
        step(5, 17, 0, 0, 1 << 18, 0),
        step(7, 0, 0, 0, 0, 0),
        step(5, 16, 0, 1, 1 << 18, 0),
    ];
    let flood = |kick: u8| {
        let all = (0..48).flat_map(|n: u8| {
            let kind = [0, 1, 4, 5][usize::from(n % 4)];
            step(kind, if n % 4 < 2 { 200 } else { 16 }, LONGEST | kick, n & 3, 1 << 18, u32::from(n))
        });
        all.chain(step(0, 1, 0, 0, 0, 0)).chain(step(0, 1, 0, 1, 0, 0)).collect::<Vec<u8>>()
    };
    vec![data.concat(), zeros.concat(), flood(0), flood(0x40)]
}

/// The memory for the requests in flight, each with a bounce buffer, whatever was requested.
pub(crate) fn memory(input: usize) -> usize {
    (MOST_INSIDE + PIECE) as usize + (1 << 20) + 64 * input
}
