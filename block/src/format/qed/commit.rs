//! The ordered commit of QED: how changes in memory become durable.
//!
//! NEED_CHECK is durable before the first change. Then a commit does, for all requests that wait for it:
//!
//! 1. guest data, and the zeros of new L2 tables, were written before the change entered memory; a
//!    barrier (fdatasync);
//! 2. entries of L2 and L1 tables; a barrier;
//! 3. clusters that nothing refers to any more are given back (`retire`).

use super::{Backing, Header, Qed, header};
use crate::format::cow::commit::{Commit, Commits, patch_header, write_all};
use crate::format::cow::retire::Retired;
use crate::{Buf, Error, ErrorKind, Result};

/// The unit in which the header changes, in bytes.
const SECTOR: u64 = 512;

impl Commit for Qed {
    fn commits(&self) -> &Commits {
        &self.commits
    }

    async fn commit_once(&self) -> Result<()> {
        let freed = self.space.take_freed();
        let mut dirty = self.tables.take_dirty();
        let result = async {
            self.storage.sync().await?;
            let runs = std::mem::take(&mut dirty.runs);
            if !runs.is_empty() {
                write_all(&*self.storage, runs).await?;
                self.storage.sync().await?;
            }
            Ok(())
        };
        let result = result.await;
        match &result {
            Ok(()) => {
                Retired::add(&self.this, freed);
            }
            Err(_) => {
                self.tables.give_back(&dirty);
                freed.into_iter().for_each(|range| self.space.free_later(range));
            }
        }
        result
    }
}

impl Qed {
    fn is_dirty(&self) -> bool {
        self.tables.is_dirty() || self.space.has_freed()
    }

    /// Makes every change that was made before this call durable.
    pub(crate) async fn flush(&self) -> Result<()> {
        match self.this.upgrade() {
            Some(this) if self.commits.is_running() || self.is_dirty() => Commits::request(this).wait().await,
            _ => self.storage.sync().await,
        }
    }

    /// Starts a commit when dirty tables take much of the cache; nobody waits for it.
    pub(super) fn commit_when_crowded(&self) {
        if self.tables.is_crowded()
            && !self.commits.is_running()
            && let Some(this) = self.this.upgrade()
        {
            Commits::request(this);
        }
    }

    /// Prepares a change: flushes if the cache is full, and sets NEED_CHECK durably before the first
    /// change.
    pub(super) async fn begin_change(&self) -> Result<()> {
        if self.tables.is_full() {
            self.flush().await?;
        }
        if !self.changed.get() {
            let mark = |sector: &mut [u8]| header::change_features(sector, header::NEED_CHECK, 0);
            patch_header(&*self.storage, &self.patching, mark).await?;
            self.changed.set(true);
        }
        Ok(())
    }

    /// See [`crate::format::Format::drop_backing`]. The caller has made sure that nothing is absent,
    /// and flushed.
    pub(crate) async fn drop_backing(&self) -> Result<()> {
        let unlink = |sector: &mut [u8]| {
            header::change_features(sector, 0, header::BACKING_FILE | header::NO_PROBE);
            sector[header::BACKING_NAME].fill(0);
        };
        patch_header(&*self.storage, &self.patching, unlink).await?;
        self.backing.take();
        Ok(())
    }

    /// See [`crate::format::Format::set_backing`]. A name that does not fit into the first sector is made
    /// durable in a place that nothing refers to yet, before that sector refers to it.
    pub(crate) async fn set_backing(&self, backing: Backing) -> Result<()> {
        let place = self.name_place(&backing).await?;
        let (name, len) = (backing.name.as_bytes(), backing.name.len() as u64);
        if place >= SECTOR {
            self.storage.write(place, Buf::from_bytes(name)).await?;
            self.storage.sync().await?;
        }
        let raw = backing.format.as_deref() == Some("raw");
        let link = |sector: &mut [u8]| {
            header::change_features(sector, header::BACKING_FILE, header::NO_PROBE);
            header::change_features(sector, if raw { header::NO_PROBE } else { 0 }, 0);
            let fields = [place as u32, len as u32].map(u32::to_le_bytes).concat();
            sector[header::BACKING_NAME].copy_from_slice(&fields);
            if place < SECTOR {
                sector[place as usize..(place + len) as usize].copy_from_slice(name);
            }
        };
        patch_header(&*self.storage, &self.patching, link).await?;
        self.backing.replace(Some(Backing { format: raw.then(|| "raw".to_owned()), ..backing }));
        Ok(())
    }

    /// See [`crate::format::Format::has_room_for`].
    pub(crate) async fn check_backing(&self, backing: &Backing) -> Result<()> {
        self.name_place(backing).await.map(drop)
    }

    /// Returns the offset in the header, in bytes, at which there is room for the name of another backing
    /// file.
    async fn name_place(&self, backing: &Backing) -> Result<u64> {
        let buf = Buf::new(header::LEN);
        self.storage.read(0, buf.clone()).await?;
        let old = Header::parse(&buf.to_vec(), self.storage.len())?.backing_name()?.unwrap_or(0..0);
        let len = backing.name.len() as u64;
        let room = self.header.header_len();
        if header::LEN as u64 + len <= SECTOR {
            return Ok(header::LEN as u64);
        }
        let taken = old.start / SECTOR * SECTOR..old.end.next_multiple_of(SECTOR);
        let is_free = |at: &u64| at + len <= room && (*at >= taken.end || at + len <= taken.start);
        let found = [SECTOR, taken.end.max(SECTOR)].into_iter().find(is_free);
        found.ok_or_else(|| {
            let text = format!("{}: the header has no room for another backing file", self.storage.name());
            Error::new(ErrorKind::Unsupported, text)
        })
    }

    /// See [`crate::format::Format::given_back`].
    pub(crate) fn given_back(&self) -> u64 {
        self.retired.given_back()
    }

    /// See [`crate::format::Format::reclaim`].
    pub(crate) async fn reclaim(&self, before: u64) -> bool {
        if self.space.has_freed() && self.flush().await.is_err() {
            return false;
        }
        Retired::drain(&self.this).await;
        self.given_back() != before
    }

    /// Flushes, trims the file to what is in use, and records in the header that no check is needed. The
    /// caller makes sure that no change is in flight; freed clusters that reads in flight still refer to
    /// are leaked.
    pub(crate) async fn close(&self) -> Result<()> {
        if !self.changed.get() {
            // Data may have been written in place.
            if !self.space.has_free() {
                return self.storage.sync().await;
            }
            // The clusters that a session leaked by not closing the image are put to use.
            self.begin_change().await?;
        }
        self.flush().await?;
        Retired::all(&self.this).await;
        self.ahead.stop().await;
        let end = self.space.trim();
        if let Err(e) = self.adopt_free().await {
            tracing::warn!("{}: clusters are leaked: {e}", self.storage.name());
        }
        self.flush().await?;
        // Even if it has that length: space that was allocated, or half written before a failure, may lie
        // behind.
        if end <= self.storage.len() {
            self.storage.truncate(end).await?;
            self.storage.sync().await?;
        }
        let clean = |sector: &mut [u8]| header::change_features(sector, 0, header::NEED_CHECK);
        patch_header(&*self.storage, &self.patching, clean).await?;
        self.changed.set(false);
        Ok(())
    }
}
