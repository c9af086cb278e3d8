//! The mapping of an offset of the disk to one in the file, and the changes to that mapping.

use std::rc::Rc;

use super::entry::Entry;
use super::{COPIED, OFFSET_MASK, Qcow2};
use crate::format::cow::cache::{SECTOR, Slice};
use crate::format::{Claim, Compressed, Content, Mapping, Reservation};
use crate::turns::Turns;
use crate::{Buf, Error, ErrorKind, Result};

impl Qcow2 {
    /// Returns the slice of the L2 table that maps `offset`, and the index of its entry there; `None` if
    /// there is no table.
    pub(super) async fn slice(&self, offset: u64) -> Result<Option<(Rc<Slice>, usize)>> {
        let l1_index = (offset / self.header.l2_coverage()) as usize;
        let l1_entry = self.l1.borrow().entries.get(l1_index).copied().unwrap_or(0);
        let table = l1_entry & OFFSET_MASK;
        if table == 0 {
            return Ok(None);
        }
        if !table.is_multiple_of(self.cluster_size()) {
            return Err(self.corrupt(format_args!("L2 table {l1_index} at {table:#x} is not aligned")));
        }
        let byte = self.entry_byte(offset);
        let slice = self.l2.get(table + byte / self.l2.slice_len() * self.l2.slice_len()).await?;
        Ok(Some((slice, (byte % self.l2.slice_len() / self.header.l2_entry_size()) as usize)))
    }

    /// The offset of the entry for `offset` in its L2 table, in bytes.
    fn entry_byte(&self, offset: u64) -> u64 {
        offset % self.header.l2_coverage() / self.cluster_size() * self.header.l2_entry_size()
    }

    pub(super) fn entries_per_slice(&self) -> usize {
        (self.l2.slice_len() / self.header.l2_entry_size()) as usize
    }

    /// As [`Qcow2::slice`], for a change: makes the table if there is none, and a copy of one that a
    /// snapshot shares.
    async fn slice_mut(&self, offset: u64) -> Result<(Rc<Slice>, usize)> {
        let l1_index = (offset / self.header.l2_coverage()) as usize;
        let entry = |this: &Self| this.l1.borrow().entries.get(l1_index).copied();
        if entry(self).is_some_and(|entry| entry & COPIED == 0) {
            let _one = self.tables.acquire(1).await;
            let old = entry(self).unwrap_or(0);
            // Another request may have made it meanwhile.
            if old & COPIED == 0 {
                self.new_table(l1_index, old & OFFSET_MASK).await?;
            }
        }
        let found = self.slice(offset).await?;
        found.ok_or_else(|| self.corrupt(format_args!("offset {offset:#x} lies outside of the L1 table")))
    }

    async fn new_table(&self, l1_index: usize, old: u64) -> Result<()> {
        let mut bytes = vec![0; self.cluster_size() as usize];
        if old != 0 {
            if old >= self.storage.len() {
                let what = format_args!("an L2 table at {old:#x} lies past the file's end");
                return Err(self.corrupt(what));
            }
            let buf = Buf::new(bytes.len());
            // A table that a snapshot shares is never changed in memory, so the file has all of it.
            self.storage.read(old, buf.clone()).await?;
            buf.copy_to(&mut bytes);
        }
        let (offset, _) = self.allocate(1).await?;
        let place = offset..offset + self.cluster_size();
        if let Err(e) = self.l2.write_table(offset, &bytes).await {
            // Nothing refers to the table yet.
            self.refcounts.free_now(place).await?;
            return Err(e);
        }
        self.metadata.add(place);
        let mut l1 = self.l1.borrow_mut();
        l1.entries[l1_index] = offset | COPIED;
        l1.dirty.insert(l1_index * 8 / SECTOR);
        if old != 0 {
            self.metadata.remove(old..old + self.cluster_size());
            self.refcounts.free_later(old..old + self.cluster_size());
        }
        Ok(())
    }

    /// Takes up to `want` neighbouring host clusters. Returns the offset of the first one and their
    /// number.
    async fn allocate(&self, want: u64) -> Result<(u64, u64)> {
        let (offset, got) = self.refcounts.allocate(want).await?;
        self.ahead.reach(&self.storage, offset + got * self.cluster_size());
        Ok((offset, got))
    }

    fn entry(&self, slice: &Slice, index: usize) -> Entry {
        if self.header.extended_l2() {
            Entry::extended(slice.u64_at(index * 2), slice.u64_at(index * 2 + 1))
        } else {
            Entry::standard(slice.u64_at(index), self.header.version)
        }
    }

    fn set_entry(&self, slice: &Rc<Slice>, index: usize, entry: Entry) {
        if self.header.extended_l2() {
            let (descriptor, bitmap) = entry.to_extended();
            self.l2.set_u64(slice, index * 2, descriptor);
            self.l2.set_u64(slice, index * 2 + 1, bitmap);
        } else {
            self.l2.set_u64(slice, index, entry.to_standard());
        }
    }

    /// See [`crate::format::Format::map`].
    pub(crate) async fn map(&self, offset: u64, len: u64) -> Result<Mapping> {
        let Some((slice, first)) = self.slice(offset).await? else {
            let rest = self.header.l2_coverage() - offset % self.header.l2_coverage();
            return Ok(Mapping {
                len: len.min(rest),
                content: Content::Absent,
                granule: self.subcluster_size(),
            });
        };
        let unit = self.subcluster_size();
        let (mut index, mut sub) = (first, (offset % self.cluster_size() / unit) as u32);
        let mut entry = self.checked_entry(&slice, index)?;
        let (content, granule) = self.content(&entry, sub, offset % unit);
        let all = self.mask(0, self.cluster_size());
        // The run goes to the end of this presence unit, then on while the next units continue it.
        let mut run = unit - offset % unit;
        while run < len {
            sub += 1;
            if sub == self.subclusters() {
                (index, sub) = (index + 1, 0);
                if index == self.entries_per_slice() {
                    break;
                }
                entry = self.checked_entry(&slice, index)?;
            }
            let (next, next_granule) = self.content(&entry, sub, 0);
            let continues = match (content, next) {
                (Content::Data(start), Content::Data(next)) => next == start + run,
                (Content::Compressed(a, start), Content::Compressed(b, next)) => {
                    a == b && next == start + run
                }
                (a, b) => a == b,
            };
            if !continues || next_granule != granule {
                break;
            }
            run += unit;
            // The units of most clusters are alike, and are taken into the run at once.
            if sub == 0 && entry.is_uniform(all) {
                sub = self.subclusters() - 1;
                run += unit * u64::from(sub);
            }
        }
        Ok(Mapping { len: run.min(len), content, granule })
    }

    pub(super) fn checked_entry(&self, slice: &Slice, index: usize) -> Result<Entry> {
        let entry = self.entry(slice, index);
        match entry.host {
            Some(host) if !host.is_multiple_of(self.cluster_size()) => {
                Err(self.corrupt(format_args!("a cluster at {host:#x} is not aligned")))
            }
            _ if entry.alloc & entry.zero != 0 || entry.alloc != 0 && entry.host.is_none() => {
                Err(self.corrupt("an L2 entry contradicts itself"))
            }
            _ => Ok(entry),
        }
    }

    fn content(&self, entry: &Entry, sub: u32, within: u64) -> (Content, u64) {
        // A cluster that cannot be written in place is copied whole when it has any data.
        let granule =
            if entry.alloc != 0 && !entry.copied { self.cluster_size() } else { self.subcluster_size() };
        if let Some(word) = entry.packed {
            let within = u64::from(sub) * self.subcluster_size() + within;
            let packed = Compressed::parse(word, self.header.cluster_bits);
            return (Content::Compressed(packed, within), self.cluster_size());
        }
        match entry.host {
            Some(host) if entry.alloc >> sub & 1 == 1 => {
                let at = host + u64::from(sub) * self.subcluster_size() + within;
                (Content::Data(at), if entry.copied && self.is_writable(host) { 1 } else { granule })
            }
            _ if entry.zero >> sub & 1 == 1 => (Content::Zero, granule),
            _ => (Content::Absent, granule),
        }
    }

    /// See [`crate::format::Format::reserve`]. The caller holds the lock on the clusters.
    pub(crate) async fn reserve(&self, offset: u64, len: u64) -> Result<Reservation> {
        self.or_refuse(self.try_reserve(offset, len)).await
    }

    async fn try_reserve(&self, offset: u64, len: u64) -> Result<Reservation> {
        self.begin_change().await?;
        let cluster = self.cluster_size();
        let (slice, first) = self.slice_mut(offset).await?;
        let within = offset % cluster;
        let image = self.this.upgrade().ok_or_else(|| self.corrupt("the image is closed"))?;
        let entry = self.checked_entry(&slice, first)?;
        if let Some(host) = entry.host.filter(|_| entry.copied) {
            self.check_writable(host)?;
            let len = len.min(cluster - within);
            return Ok(Reservation { offset, len, host: host + within, claim: Claim { image, fresh: None } });
        }
        // Neighbours in the same slice that need a new cluster too.
        let most = (within + len).div_ceil(cluster).min((self.entries_per_slice() - first) as u64);
        let mut want = 1;
        while want < most {
            let entry = self.checked_entry(&slice, first + want as usize)?;
            if entry.host.is_some() && entry.copied {
                break;
            }
            want += 1;
        }
        let (host, got) = self.allocate(want).await?;
        let fresh = Some(host..host + got * cluster);
        let len = len.min(got * cluster - within);
        Ok(Reservation { offset, len, host: host + within, claim: Claim { image, fresh } })
    }

    /// See [`crate::format::Format::commit`].
    pub(crate) async fn commit(&self, reservation: Reservation) -> Result<()> {
        self.or_refuse(self.try_commit(reservation)).await
    }

    async fn try_commit(&self, mut reservation: Reservation) -> Result<()> {
        let cluster = self.cluster_size();
        let (slice, first) = self.slice_mut(reservation.offset).await?;
        // From here on nothing waits, so that others see the change whole or not at all.
        let fresh = reservation.claim.fresh.take();
        let end = reservation.offset + reservation.len;
        let start = reservation.offset - reservation.offset % cluster;
        for (index, at) in (start..end).step_by(cluster as usize).enumerate() {
            let mut entry = self.entry(&slice, first + index);
            let mask = self.mask(reservation.offset.max(at) - at, end.min(at + cluster) - at);
            if let Some(fresh) = &fresh {
                self.free_data(&mut entry);
                entry.host = Some(fresh.start + index as u64 * cluster);
                entry.copied = true;
                entry.alloc = 0;
            }
            entry.alloc |= mask;
            entry.zero &= !mask;
            self.set_entry(&slice, first + index, entry);
        }
        self.commit_when_crowded();
        Ok(())
    }

    /// Takes an entry's data away from it, and frees its clusters.
    fn free_data(&self, entry: &mut Entry) {
        if let Some(host) = entry.host.take() {
            self.refcounts.free_later(host..host + self.cluster_size());
        }
        if let Some(word) = entry.packed.take() {
            self.refcounts
                .free_later(Compressed::parse(word, self.header.cluster_bits).clusters(&self.header));
        }
        entry.copied = false;
    }

    /// Bits of the subclusters of a range inside of a cluster.
    fn mask(&self, start: u64, end: u64) -> u32 {
        let unit = self.subcluster_size();
        let bits = |n: u64| ((1u64 << n) - 1) as u32;
        bits(end.div_ceil(unit)) & !bits(start / unit)
    }

    /// See [`crate::format::Format::zero`]. The caller holds the lock on the clusters.
    pub(crate) async fn zero(&self, offset: u64, len: u64, unmap: bool) -> Result<()> {
        self.or_refuse(self.try_zero(offset, len, unmap)).await
    }

    async fn try_zero(&self, offset: u64, len: u64, unmap: bool) -> Result<()> {
        // Without a backing file, absent clusters read as zeros.
        let alone = self.backing.borrow().is_none();
        let has_flag = self.header.version >= 3;
        if !has_flag && !alone {
            return Err(Error::new(ErrorKind::Unsupported, "qcow2 version 2 has no zero clusters"));
        }
        let cluster = self.cluster_size();
        let end = offset + len;
        let all = self.mask(0, cluster);
        let mut at = offset;
        let turns = Turns::default();
        while at < end {
            turns.step().await;
            if alone && self.slice(at).await?.is_none() {
                at += self.header.l2_coverage() - at % self.header.l2_coverage();
                continue;
            }
            self.begin_change().await?;
            let (slice, first) = self.slice_mut(at).await?;
            for index in first..self.entries_per_slice() {
                if at >= end {
                    break;
                }
                let start = at - at % cluster;
                // The disk may end inside of a cluster; the part past its end becomes zero as well.
                let stop = if end >= self.size() { start + cluster } else { end.min(start + cluster) };
                let mask = self.mask(at - start, stop - start);
                at = start + cluster;
                let old = self.checked_entry(&slice, index)?;
                if alone && old == Entry::default() {
                    continue;
                }
                if mask != all && (old.packed.is_some() || old.alloc & !mask != 0 && !old.copied) {
                    let text = "part of a cluster that is compressed or that a snapshot shares";
                    return Err(Error::new(ErrorKind::Unsupported, text));
                }
                let mut entry = Entry { zero: old.zero | mask, alloc: old.alloc & !mask, ..old };
                if entry.zero == all && (unmap || !entry.copied || !has_flag) {
                    self.free_data(&mut entry);
                }
                if !has_flag {
                    entry.zero = 0;
                }
                if entry != old {
                    self.set_entry(&slice, index, entry);
                }
            }
            self.commit_when_crowded();
            // In a long range, others have their turn, and a crowded cache gets its commit.
            executor::yield_now().await;
        }
        Ok(())
    }
}
