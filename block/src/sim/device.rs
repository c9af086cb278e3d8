//! A simulated device: content as stamps, and a service that takes as long as a real one would.
//!
//! # Service
//!
//! A request is served in virtual time: it waits for one of `depth` places, occupies the device for its share
//! of bandwidth or of requests a second, whichever is longer, and ends after a latency that does not occupy
//! it. Requests up to 64 KiB go before larger ones, behind at most 32 KiB of those: devices and the kernel's
//! schedulers serve many queues in turn, and the sum of all is what the device can do. A flush takes its own
//! time, whatever was written. There are no seeks.
//!
//! # Faults
//!
//! The block layer must survive some faults, and cannot see others. The first kind is in
//! [`super::SimFile`]: errors, short writes, torn sectors, power cuts at any change. Here is the second kind,
//! which real devices have too. With what detects each:
//!
//! - `misdirected`: the device writes to another place than it was asked to, and says that all is well. The
//!   stamp's block number shows it at the next read of either place. The block layer has no checksums of
//!   data, and copies it faithfully.
//! - `rot`: the device returns a block with a flipped bit, once. The stamp shows it if the guest reads it. A
//!   copy makes it lasting.
//! - `lost_flushes`: the device says that a flush is done, and does nothing. Nothing shows that while there
//!   is power; after a power cut, a version that the guest had flushed is gone.
//!
//! A power cut here takes back everything since the last flush, in the order in which it was written: which
//! of the unflushed sectors survive is `SimFile`'s subject. A request takes effect when it ends, and requests
//! end in any order, so what a guest may rely on is only what was answered.
//!
//! Not simulated: errors that a device reports (see `SimFile`), reordered flushes, and wear.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::stamps::{BLOCK, LARGEST, Stamps};
use crate::storage::bytes::{Blocks, Bytes};
use crate::storage::{Extent, Identity, Source, Storage};
use crate::{Buf, Error, ErrorKind, Result};

/// The largest request, in bytes, that goes before larger ones.
const SMALL: u64 = 64 << 10;
/// The part of a larger one, in bytes, that a small one may wait for.
const PIECE: f64 = 32.0 * 1024.0;

/// The service of a device.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Service {
    /// Bytes read each second.
    pub read_rate: f64,
    /// Bytes written each second.
    pub write_rate: f64,
    /// The time of a read besides its transfer.
    pub read_latency: Duration,
    /// The time of a write besides its transfer.
    pub write_latency: Duration,
    /// Small requests a second.
    pub iops: f64,
    /// The time of a flush.
    pub flush: Duration,
    /// Requests that it works at; further ones wait.
    pub depth: usize,
}

/// The faults of a device, each drawn anew for every operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lies {
    /// Writes that go to another place, out of 1000.
    pub misdirected: u32,
    /// Reads that return a flipped bit, out of 1000.
    pub rot: u32,
    /// Flushes that do nothing, out of 1000.
    pub lost_flushes: u32,
}

/// The operations of a device so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Reads, and the bytes of all of them.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Flushes.
    pub flushes: u64,
}

/// The kind of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Read,
    Write,
    Flush,
}

/// Something that serves requests one after the other; small ones first. Times are in nanoseconds.
#[derive(Default)]
pub(super) struct Pipe {
    /// The times at which all work, and all small work, is done.
    all: Cell<u64>,
    small: Cell<u64>,
}

impl Pipe {
    /// Adds work that takes `cost`, and returns when it is done. Small work waits for small work, and for no
    /// more than `piece` of the other.
    pub(super) fn take(&self, now: u64, cost: u64, small: bool, piece: u64) -> u64 {
        let all = self.all.get().max(now);
        self.all.set(all + cost);
        if !small {
            return all + cost;
        }
        let done = self.small.get().max(now + (all - now).min(piece)) + cost;
        self.small.set(done);
        done
    }
}

/// See the module.
pub struct SimDevice {
    name: String,
    number: u64,
    len: u64,
    service: Service,
    stamps: RefCell<Stamps>,
    bytes: Bytes,
    pipe: Pipe,
    /// The ends of the requests that it works at.
    inside: RefCell<BinaryHeap<Reverse<u64>>>,
    counts: Cell<Counts>,
    lies: Cell<Lies>,
    /// Nothing takes time.
    instant: Cell<bool>,
}

/// Nanoseconds of the executor's clock.
pub(super) fn now() -> u64 {
    executor::now().as_nanos() as u64
}

pub(super) async fn until(nanos: u64) {
    executor::sleep_until(Duration::from_nanos(nanos)).await;
}

impl SimDevice {
    /// Creates a device of `len` bytes, of which the first `original` hold version 0 of their own blocks.
    ///
    /// # Errors
    /// `Invalid` if it is too large.
    pub fn new(name: &str, len: u64, original: u64, service: Service) -> Result<Rc<Self>> {
        if len > LARGEST {
            let text = format!("{name}: {len} bytes are too many; at most {LARGEST} can be simulated");
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (number, len) = (NEXT.fetch_add(1, Ordering::Relaxed), len.next_multiple_of(BLOCK));
        Ok(Rc::new(SimDevice {
            name: name.to_owned(),
            number,
            len,
            service,
            stamps: RefCell::new(Stamps::new(original)),
            bytes: Bytes::new(BLOCK, false, true, len),
            pipe: Pipe::default(),
            inside: RefCell::default(),
            counts: Cell::default(),
            lies: Cell::default(),
            instant: Cell::new(false),
        }))
    }

    /// Sets the faults from now on.
    pub fn set_lies(&self, lies: Lies) {
        self.lies.set(lies);
    }

    /// Sets whether operations take no time from now on.
    pub fn set_instant(&self, instant: bool) {
        self.instant.set(instant);
    }

    /// The operations so far.
    pub fn counts(&self) -> Counts {
        self.counts.get()
    }

    /// The content, to be read or changed behind the back of all users.
    pub fn stamps(&self) -> &RefCell<Stamps> {
        &self.stamps
    }

    /// Makes power cuts possible: from now on the device keeps what it needs for that.
    pub fn prepare_power_cut(&self) {
        self.stamps.borrow_mut().keep_undo();
    }

    /// Cuts the power: what was written since the last flush is gone.
    pub fn cut_power(&self) {
        self.stamps.borrow_mut().undo();
    }

    /// Takes an operation that arrives at a time, and returns the time at which it ends.
    pub(super) fn serve(&self, kind: Kind, len: u64, arrival: u64) -> u64 {
        let mut counts = self.counts.get();
        match kind {
            Kind::Read => (counts.reads, counts.read_bytes) = (counts.reads + 1, counts.read_bytes + len),
            Kind::Write => {
                (counts.writes, counts.written_bytes) = (counts.writes + 1, counts.written_bytes + len);
            }
            Kind::Flush => counts.flushes += 1,
        }
        self.counts.set(counts);
        if self.instant.get() {
            return arrival;
        }
        let service = &self.service;
        let (rate, latency) = match kind {
            Kind::Read => (service.read_rate, service.read_latency),
            Kind::Write => (service.write_rate, service.write_latency),
            Kind::Flush => return arrival + service.flush.as_nanos() as u64,
        };
        let mut inside = self.inside.borrow_mut();
        while inside.peek().is_some_and(|end| end.0 <= arrival) {
            inside.pop();
        }
        let start = match inside.len() >= service.depth {
            true => inside.pop().map_or(arrival, |end| end.0),
            false => arrival,
        };
        let cost = (len as f64 / rate).max(1.0 / service.iops) * 1e9;
        let done = self.pipe.take(start, cost as u64, len <= SMALL, (PIECE / rate * 1e9) as u64);
        let end = done + latency.as_nanos() as u64;
        inside.push(Reverse(end));
        end
    }

    /// Returns true this often out of 1000.
    fn happens(per_mille: u32) -> bool {
        per_mille > 0 && executor::random() % 1000 < u64::from(per_mille)
    }

    /// The effect of a read.
    pub(super) fn take_out(&self, offset: u64, buf: &Buf) {
        let inside = (self.len.saturating_sub(offset)).min(buf.len() as u64) as usize;
        self.stamps.borrow().read((offset / BLOCK) as u32, &buf.slice(0..inside));
        buf.slice(inside..buf.len()).zero();
        if inside > 0 && Self::happens(self.lies.get().rot) {
            let block = executor::random() as usize % (inside / BLOCK as usize);
            // In the version of a stamp, or in the bytes.
            let at = block * BLOCK as usize + 12;
            let mut byte = [0];
            buf.read_at(at, &mut byte);
            byte[0] ^= 1 << (executor::random() % 8);
            buf.write_at(at, &byte);
        }
    }

    /// The effect of a write.
    pub(super) fn put_in(&self, offset: u64, buf: &Buf) -> Result<()> {
        let len = buf.len() as u64;
        if offset + len > self.len {
            return Err(Error::new(ErrorKind::NoSpace, format!("writing {}: no space", self.name)));
        }
        let mut to = offset;
        if Self::happens(self.lies.get().misdirected) && self.len >= 2 * len {
            let places = (self.len - len) / BLOCK;
            to = (offset + BLOCK * (1 + executor::random() % places)) % (self.len - len + BLOCK);
        }
        self.stamps.borrow_mut().write((to / BLOCK) as u32, buf);
        Ok(())
    }

    /// The effect of making a range read as zeros.
    pub(super) fn clear_out(&self, offset: u64, len: u64) {
        self.stamps.borrow_mut().clear((offset / BLOCK) as u32, (len / BLOCK) as u32);
    }

    /// The effect of a flush.
    pub(super) fn settle(&self) {
        if !Self::happens(self.lies.get().lost_flushes) {
            self.stamps.borrow_mut().settle();
        }
    }

    /// The run of data or of zeros at an offset.
    pub(super) fn run_at(&self, offset: u64, len: u64) -> Extent {
        let inside = self.len.saturating_sub(offset).min(len);
        if inside == 0 {
            return Extent { len, data: false };
        }
        let (first, within) = (offset / BLOCK, offset % BLOCK);
        let count = (within + inside).div_ceil(BLOCK);
        let (blocks, data) = self.stamps.borrow().map(first as u32, count as u32);
        Extent { len: (u64::from(blocks) * BLOCK - within).min(inside), data }
    }

    /// Checks that it can be as long as this.
    pub(super) fn check_len(&self, len: u64) -> Result<()> {
        if len <= self.len {
            return Ok(());
        }
        let text = format!("{}: the device has {} bytes, and {len} are needed", self.name, self.len);
        Err(Error::new(ErrorKind::NoSpace, text))
    }
}

/// The device as its users' code sees it.
#[derive(Clone)]
struct Operations(Rc<SimDevice>);

impl Blocks for Operations {
    async fn read_blocks(&self, offset: u64, buf: &Buf) -> Result<()> {
        let (device, buf) = (self.0.clone(), buf.clone());
        let end = device.serve(Kind::Read, buf.len() as u64, now());
        executor::to_the_end(async move {
            until(end).await;
            device.take_out(offset, &buf);
            Ok(())
        })
        .await
    }

    async fn write_blocks(&self, offset: u64, buf: &Buf) -> Result<()> {
        let (device, buf) = (self.0.clone(), buf.clone());
        let end = device.serve(Kind::Write, buf.len() as u64, now());
        executor::to_the_end(async move {
            until(end).await;
            device.put_in(offset, &buf)
        })
        .await
    }

    async fn clear_blocks(&self, offset: u64, len: u64, _unmap: bool) -> Result<bool> {
        let device = self.0.clone();
        let end = device.serve(Kind::Write, 0, now());
        executor::to_the_end(async move {
            until(end).await;
            device.clear_out(offset, len);
            Ok(true)
        })
        .await
    }

    async fn set_end(&self, len: u64) -> Result<()> {
        self.0.check_len(len)
    }
}

/// An opening of a [`SimDevice`].
pub(super) struct Opened(Operations);

impl Opened {
    pub(super) fn new(device: &Rc<SimDevice>) -> Rc<Self> {
        Rc::new(Opened(Operations(device.clone())))
    }

    fn device(&self) -> &Rc<SimDevice> {
        &self.0.0
    }
}

#[async_trait(?Send)]
impl Source for Opened {
    fn name(&self) -> &str {
        &self.device().name
    }

    fn len(&self) -> u64 {
        self.device().len
    }

    async fn read(&self, offset: u64, buf: Buf) -> Result<()> {
        self.device().bytes.read(&self.0, offset, &buf).await
    }

    fn is_fixed(&self) -> bool {
        true
    }

    async fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        Ok(self.device().run_at(offset, len))
    }

    fn identity(&self) -> Option<Identity> {
        // No device of the host has this number.
        Some(Identity { device: u64::MAX - 1, inode: self.device().number })
    }
}

#[async_trait(?Send)]
impl Storage for Opened {
    async fn write(&self, offset: u64, buf: Buf) -> Result<()> {
        self.device().bytes.write(&self.0, offset, &buf).await
    }

    async fn sync(&self) -> Result<()> {
        let device = self.device().clone();
        let end = device.serve(Kind::Flush, 0, now());
        executor::to_the_end(async move {
            until(end).await;
            device.settle();
            Ok(())
        })
        .await
    }

    async fn truncate(&self, len: u64) -> Result<()> {
        self.device().check_len(len)
    }

    async fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.device().bytes.clear(&self.0, offset..offset + len, true, BLOCK).await
    }

    async fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.device().bytes.clear(&self.0, offset..offset + len, false, BLOCK).await
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
pub(super) mod tests;
