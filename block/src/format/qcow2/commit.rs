//! The ordered commit: how changes in memory become durable.
//!
//! One commit serves everyone who asked while the one before it ran. Its order holds at every
//! instant, so that a power cut leaves leaked clusters at worst:
//!
//! 1. guest data and new tables (both written before the change entered memory), refcount increases; then a
//!    barrier (fdatasync);
//! 2. if there are new refcount blocks, the refcount table that names them; then a barrier; if the table
//!    moved, also the header that names it, with a barrier after it;
//! 3. entries in L2 tables, and the L1 table; then a barrier; if the L1 table moved, all of it and then
//!    the header that names it, with a barrier after each;
//! 4. clusters that nothing refers to any more are given back (`retire`). Their lower counts go to the
//!    file with the next commit.
//!
//! A commit needs no space that the file does not have, since each table was written when it was made. So
//! if storage is full, the request that needs more of it fails, and no flush does.

use std::collections::BTreeSet;

use super::Qcow2;
use crate::Result;
use crate::format::cow::cache::{Run, SECTOR};
use crate::format::cow::commit::{Commit, Commits, patch_header, write_all};
use crate::format::cow::retire::Retired;

/// The changed sectors of a table that is held whole in memory, as they are now.
fn sectors(entries: &[u64], dirty: &BTreeSet<usize>, offset: u64) -> Vec<Run> {
    let sector = |&n: &usize| {
        let start = n * SECTOR / 8;
        let mut bytes: Vec<u8> = entries[start.min(entries.len())..(start + SECTOR / 8).min(entries.len())]
            .iter()
            .flat_map(|entry| entry.to_be_bytes())
            .collect();
        // The rest of an L1 table's last sector belongs to its cluster, and to nothing else.
        bytes.resize(SECTOR, 0);
        Run { offset: offset + (n * SECTOR) as u64, bytes }
    };
    dirty.iter().map(sector).collect()
}

impl Commit for Qcow2 {
    fn commits(&self) -> &Commits {
        &self.commits
    }

    async fn commit_once(&self) -> Result<()> {
        let mut freed = self.refcounts.take_freed();
        let mut l2 = self.l2.take_dirty();
        let mut counts = self.refcounts.cache.take_dirty();
        let (l1_dirty, l1, l1_moved) = {
            let mut l1 = self.l1.borrow_mut();
            let dirty = std::mem::take(&mut l1.dirty);
            let runs = sectors(&l1.entries, &dirty, l1.offset);
            let place = (l1.offset, l1.entries.len() as u32);
            (dirty, runs, l1.moved.take().map(|old| (old, place)))
        };
        let (table_dirty, table, moved) = {
            let mut table = self.refcounts.table.borrow_mut();
            let dirty = std::mem::take(&mut table.dirty);
            let moved = table.moved.take();
            let all = 0..table.entries.len() * 8 / SECTOR;
            let wanted = if moved.is_some() { all.collect() } else { dirty.clone() };
            (dirty, sectors(&table.entries, &wanted, table.offset), moved)
        };

        let first = std::mem::take(&mut counts.runs);
        let last = [std::mem::take(&mut l2.runs), l1].into_iter().flatten().collect();
        let mut result = self.write_in_order(first, table, moved.is_some(), last).await;
        if let (Ok(()), Some((_, (offset, entries)))) = (&result, &l1_moved) {
            let patch = self.patch_header(|sector| {
                sector[36..40].copy_from_slice(&entries.to_be_bytes());
                sector[40..48].copy_from_slice(&offset.to_be_bytes());
            });
            result = patch.await;
        }
        match &result {
            Ok(()) => {
                for old in moved.into_iter().chain(l1_moved.map(|(old, _)| old)) {
                    self.metadata.remove(old.clone());
                    self.refcounts.free_later(old);
                }
                Retired::add(&self.this, freed);
            }
            Err(_) => {
                self.l2.give_back(&l2);
                self.refcounts.cache.give_back(&counts);
                {
                    let mut l1 = self.l1.borrow_mut();
                    l1.dirty.extend(l1_dirty);
                    // The table moved again meanwhile. The file names the oldest place or the one in
                    // between: both are free once it names the newest.
                    if let Some((old, _)) = l1_moved
                        && let Some(between) = l1.moved.replace(old)
                    {
                        self.metadata.remove(between.clone());
                        freed.push(between);
                    }
                }
                let mut table = self.refcounts.table.borrow_mut();
                table.dirty.extend(table_dirty);
                if moved.is_some()
                    && let Some(between) = std::mem::replace(&mut table.moved, moved)
                {
                    self.metadata.remove(between.clone());
                    freed.push(between);
                }
                freed.into_iter().for_each(|range| self.refcounts.free_later(range));
            }
        }
        result
    }
}

impl Qcow2 {
    /// Makes every change that was made before this call durable.
    pub(crate) async fn flush(&self) -> Result<()> {
        match self.this.upgrade() {
            Some(this) if self.commits.is_running() || self.is_dirty() => Commits::request(this).wait().await,
            _ => self.storage.sync().await,
        }
    }

    fn is_dirty(&self) -> bool {
        self.l2.is_dirty()
            || self.refcounts.cache.is_dirty()
            || self.refcounts.has_freed()
            || !self.l1.borrow().dirty.is_empty()
            || !self.refcounts.table.borrow().dirty.is_empty()
    }

    /// Starts a commit when dirty tables take much of the cache; nobody waits for it.
    pub(super) fn commit_when_crowded(&self) {
        let crowded = self.l2.is_crowded() || self.refcounts.cache.is_crowded();
        if crowded
            && !self.commits.is_running()
            && let Some(this) = self.this.upgrade()
        {
            Commits::request(this);
        }
    }

    async fn write_in_order(
        &self,
        first: Vec<Run>,
        table: Vec<Run>,
        moved: bool,
        last: Vec<Run>,
    ) -> Result<()> {
        let place = {
            let table = self.refcounts.table.borrow();
            (table.offset, table.clusters as u32)
        };
        write_all(&*self.storage, first).await?;
        self.storage.sync().await?;
        if !table.is_empty() {
            write_all(&*self.storage, table).await?;
            self.storage.sync().await?;
        }
        if moved {
            self.patch_header(|sector| {
                sector[48..56].copy_from_slice(&place.0.to_be_bytes());
                sector[56..60].copy_from_slice(&place.1.to_be_bytes());
            })
            .await?;
        }
        if !last.is_empty() {
            write_all(&*self.storage, last).await?;
            self.storage.sync().await?;
        }
        Ok(())
    }

    /// Changes the header's first 512 bytes in one write, durably.
    pub(super) async fn patch_header(&self, change: impl FnOnce(&mut [u8])) -> Result<()> {
        patch_header(&*self.storage, &self.patching, change).await
    }

    /// Prepares a change: writes what must be in the file before the first one, and flushes if a cache is
    /// full.
    pub(super) async fn begin_change(&self) -> Result<()> {
        self.check_sound()?;
        if self.l2.is_full() || self.refcounts.cache.is_full() {
            self.flush().await?;
        }
        if self.changed.get() {
            return Ok(());
        }
        if self.header.autoclear != 0 {
            // Whoever set these bits relies on nobody else writing to the image.
            self.patch_header(|sector| sector[88..96].fill(0)).await?;
        }
        self.changed.set(true);
        // Changes may have been refused meanwhile, and stay so.
        self.in_place.set(!self.refused.get());
        Ok(())
    }

    /// See [`crate::format::Format::drop_backing`]. The caller has made sure that nothing is absent, and
    /// flushed. One sector changes; header extensions stay in their places.
    pub(crate) async fn drop_backing(&self) -> Result<()> {
        self.begin_change().await?;
        self.patch_header(|sector| sector[8..20].fill(0)).await?;
        self.backing.take();
        Ok(())
    }

    /// See [`crate::format::Format::given_back`].
    pub(crate) fn given_back(&self) -> u64 {
        self.retired.given_back()
    }

    /// See [`crate::format::Format::reclaim`].
    pub(crate) async fn reclaim(&self, before: u64) -> bool {
        if self.refcounts.has_freed() && self.flush().await.is_err() {
            return false;
        }
        Retired::drain(&self.this).await;
        self.given_back() != before
    }

    /// Flushes, and cuts off the space that was allocated ahead. The caller makes sure that nothing is in
    /// flight.
    pub(crate) async fn close(&self) -> Result<()> {
        if !self.changed.get() {
            // Data may have been written in place.
            return self.storage.sync().await;
        }
        self.flush().await?;
        // Decreases follow one commit later, and a decrease may itself free a table.
        for _ in 0..4 {
            Retired::all(&self.this).await;
            if self.is_dirty() {
                self.flush().await?;
            }
        }
        if self.ahead.stop().await {
            let end = self.refcounts.used_end().await?.max(self.metadata.end());
            // Even if it has that length: allocated space may lie past a file's end.
            if end <= self.storage.len() {
                self.storage.truncate(end).await?;
                self.storage.sync().await?;
            }
        }
        Ok(())
    }
}
