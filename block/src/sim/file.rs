//! One opening of a simulated file.

use std::cell::Cell;
use std::future::Future;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;

use super::medium::{Medium, Power, chance};
use super::{Faults, Nature};
use crate::storage::bytes::{Blocks, Bytes};
use crate::storage::{Extent, Identity, Lock, Source, Storage, Transfer};
use crate::{Buf, Error, ErrorKind, Result};

/// A simulated file that is open.
pub struct SimFile {
    medium: Rc<Medium>,
    bytes: Bytes,
    /// The restarts of its server before it was opened.
    restarts: u64,
    hung_up: Cell<bool>,
}

impl SimFile {
    /// A file with this content, all of it durable.
    pub fn new(name: &str, content: Vec<u8>) -> Rc<Self> {
        Self::powered(name, content, Nature::default(), Rc::default())
    }

    pub(super) fn powered(name: &str, content: Vec<u8>, nature: Nature, power: Rc<Power>) -> Rc<Self> {
        Self::over(Medium::new(name, content, nature, power))
    }

    fn over(medium: Rc<Medium>) -> Rc<Self> {
        let nature = medium.nature.get();
        let bytes = Bytes::new(nature.alignment, true, nature.fixed, medium.len());
        let restarts = medium.restarts.get();
        Rc::new(SimFile { medium, bytes, restarts, hung_up: Cell::new(false) })
    }

    /// Returns the simulated file behind a source.
    fn behind(source: &dyn Source) -> Option<&SimFile> {
        source.copied_as()?.downcast_ref()
    }

    /// Opens it once more. The new opening knows the length, and nothing of operations in flight.
    pub fn open(&self) -> Rc<Self> {
        Self::over(self.medium.clone())
    }

    /// Sets the faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.medium.faults.set(faults);
    }

    /// Sets the properties, for openings from now on.
    pub fn set_nature(&self, nature: Nature) {
        self.medium.nature.set(nature);
    }

    /// The properties.
    pub fn nature(&self) -> Nature {
        self.medium.nature.get()
    }

    /// Changes the size of a device, as its volume manager would.
    pub fn set_device_size(&self, len: u64) {
        self.medium.resize(len);
    }

    /// Its content as programs see it.
    pub fn content(&self) -> Vec<u8> {
        self.medium.content()
    }

    /// Returns the content that a power cut would leave now: everything that was synced, and of the rest
    /// any sectors in any combination, each old or new, and any length that the file had or was growing
    /// to.
    pub fn after_power_cut(&self) -> Vec<u8> {
        self.medium.after_power_cut()
    }

    /// Restarts the server behind it, as if it were an NBD export: what was not synced may be lost, and
    /// openings of before can be used, but never synced again ([`Storage::is_lost`]).
    pub fn restart(&self) {
        self.medium.restart();
    }

    /// As [`SimFile::restart`], but for so long the server cannot be reached: it cannot be opened.
    pub fn restart_slowly(&self, away: Duration) {
        self.medium.restart();
        self.medium.away_until.set(executor::now() + away);
    }

    /// Fails while its server cannot be reached.
    pub(super) fn check_there(&self) -> Result<()> {
        if executor::now() >= self.medium.away_until.get() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Io, format!("{}: connection refused", self.medium.name)))
    }

    /// Runs an operation in a task of its own: dropping the caller's future abandons the result, but the
    /// device still does the operation.
    async fn detached<T: 'static, F: Future<Output = Result<T>> + 'static>(
        &self,
        operation: impl FnOnce(Rc<Medium>) -> F,
    ) -> Result<T> {
        if self.hung_up.get() {
            let text = format!("{}: the connection was ended", self.medium.name);
            return Err(Error::new(ErrorKind::Io, text));
        }
        let (medium, running) = (self.medium.clone(), operation(self.medium.clone()));
        let task = async move {
            let result = running.await;
            medium.end().await;
            result
        };
        executor::spawn(task).await.expect("operations are not cancelled")
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        if let Some(len) = self.bytes.excess() {
            self.medium.cut(len);
        }
    }
}

impl Blocks for SimFile {
    async fn read_blocks(&self, offset: u64, buf: &Buf) -> Result<()> {
        self.medium.check(offset, buf)?;
        let buf = buf.clone();
        self.detached(|medium| async move { medium.read(offset, buf).await }).await
    }

    async fn write_blocks(&self, offset: u64, buf: &Buf) -> Result<()> {
        self.medium.check(offset, buf)?;
        let buf = buf.clone();
        self.detached(|medium| async move { medium.write(offset, buf).await }).await
    }

    async fn clear_blocks(&self, offset: u64, len: u64, unmap: bool) -> Result<bool> {
        self.detached(|medium| async move { medium.clear(offset, len, unmap).await }).await
    }

    async fn set_end(&self, len: u64) -> Result<()> {
        self.detached(|medium| async move { medium.set_end(len).await }).await
    }
}

#[async_trait(?Send)]
impl Source for SimFile {
    fn name(&self) -> &str {
        &self.medium.name
    }

    fn len(&self) -> u64 {
        self.bytes.len()
    }

    async fn read(&self, offset: u64, buf: Buf) -> Result<()> {
        self.bytes.read(self, offset, &buf).await
    }

    fn is_fixed(&self) -> bool {
        self.medium.nature.get().fixed
    }

    async fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        self.medium.map(offset, len).await
    }

    fn copied_as(&self) -> Option<&dyn std::any::Any> {
        Some(self)
    }

    fn lock(&self, lock: Lock) -> Result<()> {
        self.bytes.set_owner(lock == Lock::Leaf);
        Ok(())
    }

    fn space(&self) -> Option<u64> {
        Some(self.medium.space())
    }

    fn identity(&self) -> Option<Identity> {
        Some(self.medium.identity)
    }
}

#[async_trait(?Send)]
impl Storage for SimFile {
    async fn write(&self, offset: u64, buf: Buf) -> Result<()> {
        self.bytes.write(self, offset, &buf).await
    }

    async fn sync(&self) -> Result<()> {
        // A later sync cuts off an excess that cannot be cut off now.
        let _ = self.bytes.trim(self).await;
        let synced = self.medium.sync().await;
        // Also if the server was restarted meanwhile.
        if self.is_lost() {
            let text = format!("syncing {}: its server was restarted", self.medium.name);
            return Err(Error::new(ErrorKind::Io, text));
        }
        synced
    }

    fn is_lost(&self) -> bool {
        self.restarts != self.medium.restarts.get()
    }

    async fn returned(&self) {
        // It may go away again meanwhile.
        while !self.hung_up.get() && executor::now() < self.medium.away_until.get() {
            executor::sleep_until(self.medium.away_until.get()).await;
        }
    }

    fn hang_up(&self) {
        self.hung_up.set(true);
    }

    async fn truncate(&self, len: u64) -> Result<()> {
        if !self.is_fixed() {
            return self.bytes.truncate(self, len).await;
        }
        self.medium.begin(0, "resizing").await?;
        let has = self.medium.len();
        self.bytes.measured(has);
        if len <= has {
            return Ok(());
        }
        let text = format!("{}: the device has {has} bytes, and {len} are needed", self.name());
        Err(Error::new(ErrorKind::NoSpace, text))
    }

    async fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        let _end = self.bytes.hold_end().await;
        self.bytes.reach(offset + len);
        self.detached(|medium| async move { medium.allocate(offset, len).await }).await?;
        self.bytes.grown(offset + len);
        Ok(())
    }

    async fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let unit = if self.is_fixed() { 4096 } else { 1 };
        self.bytes.clear(self, offset..offset + len, true, unit).await
    }

    async fn zero(&self, offset: u64, len: u64) -> Result<()> {
        let unit = if self.is_fixed() { 4096 } else { 1 };
        self.bytes.clear(self, offset..offset + len, false, unit).await
    }

    async fn unmap(&self, offset: u64, len: u64) -> Result<()> {
        let _lock = self.bytes.hold(offset, len).await;
        match self.clear_blocks(offset, len, true).await {
            Ok(false) => {
                let text = format!("discarding {}: not supported here", self.name());
                Err(Error::new(ErrorKind::Unsupported, text))
            }
            done => done.map(drop),
        }
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let _lock = self.bytes.hold(offset, len).await;
        self.medium.discard(offset, len).await
    }

    async fn copy_from(
        &self,
        source: &dyn Source,
        from: u64,
        to: u64,
        len: u64,
        unit: u64,
    ) -> Result<Option<Transfer>> {
        let Some(source) = Self::behind(source) else { return Ok(None) };
        let _lock = self.bytes.hold(to, len).await;
        self.bytes.reach(to + len);
        let copied = self.medium.copies(&source.medium, from, to, len).await?;
        let Some((shared, data)) = copied else { return Ok(None) };
        if shared {
            self.medium.put(to, data)?;
            self.medium.end().await;
            self.bytes.grown(to + len);
            return Ok(Some(Transfer::Shared));
        }
        let mut zero: Vec<Range<u64>> = Vec::new();
        for (start, piece) in (0..).step_by(unit as usize).zip(data.chunks(unit as usize)) {
            if let Err(e) = source.medium.check_copied(from + start, piece.len() as u64) {
                self.medium.end().await;
                self.bytes.grown(to + start);
                return Ok(Some(Transfer::Stopped { len: start, zero, error: e.of_source() }));
            }
            if !crate::buf::is_zero(piece) {
                self.medium.put(to + start, piece.to_vec())?;
            } else if let Some(last) = zero.last_mut().filter(|last| last.end == start) {
                last.end = start + piece.len() as u64;
            } else {
                zero.push(start..start + piece.len() as u64);
            }
        }
        self.medium.end().await;
        self.bytes.grown(to + len);
        Ok(Some(Transfer::Written { zero }))
    }

    fn can_copy_from(&self, source: &dyn Source) -> bool {
        Self::behind(source).is_some() && (self.nature().sharing == super::Sharing::Always || chance(500))
    }

    async fn sync_name(&self) -> Result<()> {
        self.medium.begin(0, "syncing").await
    }
}
