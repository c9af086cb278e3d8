//! A simulated link, over which a device of another host is used, as an NBD export would be.
//!
//! Each direction has a rate and a delay. Requests go one after the other, as on one connection, so a small
//! one waits for what was sent before it. Jitter is added to the time of an answer. A request has 28 bytes
//! and its data, an answer 16 and its data.
//!
//! While the link is cut, nothing arrives: requests wait, and those in flight are sent again once it is back,
//! as our NBD client does with a server that goes on. The loss of a server that forgets what was not flushed
//! is [`super::SimFile::restart`].

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;

use super::device::{Kind, Pipe, SimDevice, now, until};
use super::stamps::BLOCK;
use crate::storage::bytes::{Blocks, Bytes};
use crate::storage::{Extent, Source, Storage};
use crate::{Buf, Result};

/// Bytes of a request and of an answer beside their data.
const REQUEST: u64 = 28;
const ANSWER: u64 = 16;

/// The properties of a link.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Line {
    /// Bytes a second in each direction.
    pub rate: f64,
    /// The time to the other side.
    pub delay: Duration,
    /// The standard deviation of the time of an answer.
    pub jitter: Duration,
}

/// The traffic of a link so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Bytes of data that were sent, in both directions, those that were sent again included.
    pub data: u64,
    /// Requests that were sent again after a cut.
    pub again: u64,
}

/// See the module. All devices behind it share it.
pub struct SimLink {
    line: Line,
    forth: Pipe,
    back: Pipe,
    /// The end of a cut, and the number of cuts so far.
    cut: Cell<(u64, u64)>,
    traffic: Cell<Traffic>,
    /// Nothing takes time.
    instant: Cell<bool>,
}

impl SimLink {
    /// Creates a link.
    pub fn new(line: Line) -> Rc<Self> {
        Rc::new(SimLink {
            line,
            forth: Pipe::default(),
            back: Pipe::default(),
            cut: Cell::default(),
            traffic: Cell::default(),
            instant: Cell::new(false),
        })
    }

    /// Cuts it for a time from now on.
    pub fn cut(&self, time: Duration) {
        let (end, count) = self.cut.get();
        self.cut.set((end.max(now().saturating_add(time.as_nanos() as u64)), count + 1));
    }

    /// Sets whether operations that begin from now on take no time on it, also while it is cut.
    pub fn set_instant(&self, instant: bool) {
        self.instant.set(instant);
    }

    /// Returns true while it is cut.
    pub fn is_cut(&self) -> bool {
        now() < self.cut.get().0
    }

    /// The traffic so far.
    pub fn traffic(&self) -> Traffic {
        self.traffic.get()
    }

    /// A deviation from the delay: never below 0, and nearly a half of a normal distribution.
    fn jitter(&self) -> u64 {
        let jitter = self.line.jitter.as_nanos() as f64;
        if jitter == 0.0 {
            return 0;
        }
        // The sum of four even numbers is nearly normal, and is computed alike everywhere.
        let even = || (executor::random() >> 11) as f64 / (1_u64 << 53) as f64;
        let normal = (even() + even() + even() + even() - 2.0) * 1.732_050_807_568_877_2;
        (normal.abs() * jitter) as u64
    }

    fn pass(&self, pipe: &Pipe, at: u64, bytes: u64) -> u64 {
        let cost = bytes as f64 / self.line.rate * 1e9;
        pipe.take(at, cost as u64, false, 0) + self.line.delay.as_nanos() as u64
    }

    /// Sends an operation until it is answered. It takes effect then; a cut before that has it sent again.
    async fn ask(&self, device: &SimDevice, kind: Kind, len: u64, sent: bool) {
        let (data_forth, data_back) = match (kind, sent) {
            (Kind::Read, _) => (0, len),
            (Kind::Write, true) => (len, 0),
            (Kind::Write | Kind::Flush, _) => (0, 0),
        };
        if self.instant.get() {
            until(device.serve(kind, len, now())).await;
            return;
        }
        let mut again = 0;
        loop {
            while self.is_cut() {
                until(self.cut.get().0).await;
            }
            let cuts = self.cut.get().1;
            let mut traffic = self.traffic.get();
            traffic.data += data_forth + data_back;
            traffic.again += again;
            self.traffic.set(traffic);
            let there = self.pass(&self.forth, now(), REQUEST + data_forth);
            let done = device.serve(kind, len, there);
            until(self.pass(&self.back, done, ANSWER + data_back) + self.jitter()).await;
            if self.cut.get().1 == cuts {
                return;
            }
            again = 1;
        }
    }
}

/// A device behind a link.
#[derive(Clone)]
struct Remote {
    link: Rc<SimLink>,
    device: Rc<SimDevice>,
}

impl Remote {
    async fn ask<T: 'static>(
        &self,
        kind: Kind,
        len: u64,
        sent: bool,
        effect: impl FnOnce(&SimDevice) -> T + 'static,
    ) -> T {
        let Remote { link, device } = self.clone();
        executor::to_the_end(async move {
            link.ask(&device, kind, len, sent).await;
            effect(&device)
        })
        .await
    }
}

impl Blocks for Remote {
    async fn read_blocks(&self, offset: u64, buf: &Buf) -> Result<()> {
        let buf = buf.clone();
        self.ask(Kind::Read, buf.len() as u64, false, move |device| device.take_out(offset, &buf)).await;
        Ok(())
    }

    async fn write_blocks(&self, offset: u64, buf: &Buf) -> Result<()> {
        let buf = buf.clone();
        self.ask(Kind::Write, buf.len() as u64, true, move |device| device.put_in(offset, &buf)).await
    }

    async fn clear_blocks(&self, offset: u64, len: u64, _unmap: bool) -> Result<bool> {
        self.ask(Kind::Write, 0, false, move |device| device.clear_out(offset, len)).await;
        Ok(true)
    }

    async fn set_end(&self, len: u64) -> Result<()> {
        self.device.check_len(len)
    }
}

/// An opening of a device behind a link.
pub(super) struct Far {
    name: String,
    remote: Remote,
    bytes: Bytes,
}

impl Far {
    pub(super) fn new(name: &str, link: &Rc<SimLink>, device: &Rc<SimDevice>, len: u64) -> Rc<Self> {
        let remote = Remote { link: link.clone(), device: device.clone() };
        Rc::new(Far { name: name.to_owned(), remote, bytes: Bytes::new(BLOCK, false, true, len) })
    }
}

#[async_trait(?Send)]
impl Source for Far {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.bytes.len()
    }

    async fn read(&self, offset: u64, buf: Buf) -> Result<()> {
        self.bytes.read(&self.remote, offset, &buf).await
    }

    fn is_fixed(&self) -> bool {
        true
    }

    /// Known without asking: our client asks ahead, for much at once.
    async fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        Ok(self.remote.device.run_at(offset, len))
    }
}

#[async_trait(?Send)]
impl Storage for Far {
    async fn write(&self, offset: u64, buf: Buf) -> Result<()> {
        self.bytes.write(&self.remote, offset, &buf).await
    }

    async fn sync(&self) -> Result<()> {
        self.remote.ask(Kind::Flush, 0, false, SimDevice::settle).await;
        Ok(())
    }

    async fn truncate(&self, len: u64) -> Result<()> {
        self.remote.device.check_len(len)
    }

    async fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.bytes.clear(&self.remote, offset..offset + len, true, BLOCK).await
    }

    async fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.bytes.clear(&self.remote, offset..offset + len, false, BLOCK).await
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
