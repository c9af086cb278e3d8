//! The mapping of an offset of the disk to one in the file, and the changes to that mapping (QEMU
//! `docs/interop/qed_spec.txt`, "Tables").

use std::rc::Rc;

use super::Qed;
use crate::format::cow::cache::{SECTOR, Slice};
use crate::format::{Claim, Content, Mapping, Owner, Reservation};
use crate::turns::Turns;
use crate::{Buf, Error, ErrorKind, Result};

/// The L2 entry of a zero cluster.
pub(super) const ZERO: u64 = 1;

/// The ways in which clusters with data come to read as zeros.
#[derive(Clone, Copy)]
pub(crate) enum Clear {
    /// Their space is given back if possible.
    Punch,
    /// Their space is kept.
    Zero,
    /// Their space is given back; if that is not possible, they stay as they are.
    Unmap,
}

impl Qed {
    /// Returns the slice that holds entry `index` of the table at `table`, and the entry's index there.
    pub(super) async fn slot(&self, table: u64, index: u64) -> Result<(Rc<Slice>, usize)> {
        let byte = index * 8;
        let within = byte % self.tables.slice_len();
        let slice = self.tables.get(table + byte - within).await?;
        Ok((slice, (within / 8) as usize))
    }

    pub(super) async fn l1_slot(&self, offset: u64) -> Result<(Rc<Slice>, usize)> {
        self.slot(self.header.l1_offset, offset / self.header.l2_coverage()).await
    }

    /// Returns the slice with the L2 entry for `offset`, and the entry's index; `None` if there is no L2
    /// table.
    async fn l2_slot(&self, offset: u64) -> Result<Option<(Rc<Slice>, usize)>> {
        let (slice, index) = self.l1_slot(offset).await?;
        let table = slice.u64_at(index);
        if table == 0 {
            return Ok(None);
        }
        self.check_place(table, self.header.table_len())?;
        self.slot(table, offset % self.header.l2_coverage() / self.cluster_size()).await.map(Some)
    }

    /// As [`Qed::l2_slot`], for a change: makes the table if there is none.
    async fn l2_slot_mut(&self, offset: u64) -> Result<(Rc<Slice>, usize)> {
        if let Some(found) = self.l2_slot(offset).await? {
            return Ok(found);
        }
        {
            let _one = self.making.acquire(1).await;
            let (slice, index) = self.l1_slot(offset).await?;
            // Another request may have made it meanwhile.
            if slice.u64_at(index) == 0 {
                let table = self.new_table().await?;
                self.tables.set_u64(&slice, index, table);
            }
        }
        let found = self.l2_slot(offset).await?;
        found.ok_or_else(|| self.corrupt(format_args!("offset {offset:#x} has no L2 table")))
    }

    /// Makes a table of zeros. They are written before the L1 table refers to it, so that it has its space
    /// and a commit needs none. If a power cut then leaves only some of its new entries, that does no
    /// harm: an absent entry reads as a missing table. A table too long for this lies at the file's end,
    /// which reads as zeros, and has only its last sector written, so that all of it is inside of the
    /// file.
    async fn new_table(&self) -> Result<u64> {
        const LARGEST: u64 = 1 << 20;
        let len = self.header.table_len();
        let (table, zeros) = match len <= LARGEST {
            true => (self.space.take(self.header.table_size), len),
            false => (self.space.take_zeros(self.header.table_size), SECTOR as u64),
        };
        let table = table.ok_or_else(|| self.too_long())?;
        let written = self.storage.write(table + len - zeros, Buf::new(zeros as usize)).await;
        if written.is_err() {
            self.free_later(table..table + len);
        }
        written.map(|()| {
            self.l2_tables.add(table);
            table
        })
    }

    fn too_long(&self) -> Error {
        Error::new(ErrorKind::NoSpace, format!("{}: the file cannot grow any more", self.storage.name()))
    }

    /// Fails for an offset that no cluster or table can have ("Consistency checking", invariants 2, 3).
    fn check_place(&self, offset: u64, len: u64) -> Result<()> {
        if self.header.is_place(offset, len) && offset + len <= self.space.end() {
            return Ok(());
        }
        Err(self.not_sound(offset))
    }

    /// Fails for an offset that no data cluster can have, which must not lie in a table either (invariant
    /// 1).
    fn check_data(&self, host: u64) -> Result<()> {
        let cluster = self.cluster_size();
        self.check_place(host, cluster)?;
        if self.l2_tables.overlap(host, cluster) { Err(self.not_sound(host)) } else { Ok(()) }
    }

    fn not_sound(&self, offset: u64) -> Error {
        super::not_sound(format_args!("a table refers to {offset:#x}, where no cluster can be"))
            .context(self.storage.name())
    }

    fn entry(&self, slice: &Slice, index: usize) -> Result<Content> {
        match slice.u64_at(index) {
            0 => Ok(Content::Absent),
            ZERO => Ok(Content::Zero),
            host => self.check_data(host).map(|()| Content::Data(host)),
        }
    }

    pub(super) fn entries_per_slice(&self) -> usize {
        (self.tables.slice_len() / 8) as usize
    }

    /// See [`crate::format::Format::map`].
    pub(crate) async fn map(&self, offset: u64, len: u64) -> Result<Mapping> {
        let cluster = self.cluster_size();
        let Some((slice, first)) = self.l2_slot(offset).await? else {
            let rest = self.header.l2_coverage() - offset % self.header.l2_coverage();
            return Ok(Mapping { len: len.min(rest), content: Content::Absent, granule: cluster });
        };
        let within = offset % cluster;
        let start = self.entry(&slice, first)?;
        let mut clusters = 1;
        for index in first + 1..self.entries_per_slice() {
            let so_far = clusters * cluster;
            if so_far - within >= len {
                break;
            }
            // A wrong entry is an error only for a request that begins there.
            let continues = match (start, self.entry(&slice, index)) {
                (Content::Data(host), Ok(Content::Data(next))) => next == host + so_far,
                (start, Ok(next)) => start == next,
                (_, Err(_)) => false,
            };
            if !continues {
                break;
            }
            clusters += 1;
        }
        let (content, granule) = match start {
            Content::Data(host) => (Content::Data(host + within), 1),
            other => (other, cluster),
        };
        Ok(Mapping { len: len.min(clusters * cluster - within), content, granule })
    }

    /// See [`crate::format::Format::reserve`]. The caller holds the lock on the clusters.
    pub(crate) async fn reserve(&self, offset: u64, len: u64) -> Result<Reservation> {
        self.begin_change().await?;
        let cluster = self.cluster_size();
        let image = self.this.upgrade().ok_or_else(|| self.corrupt("the image is closed"))?;
        let (slice, first) = self.l2_slot_mut(offset).await?;
        // Neighbours in the same slice that need a new cluster too.
        let most = len.div_ceil(cluster).min((self.entries_per_slice() - first) as u64);
        let mut count = 1;
        while count < most && !matches!(self.entry(&slice, first + count as usize)?, Content::Data(_)) {
            count += 1;
        }
        let host = self.space.take(count).ok_or_else(|| self.too_long())?;
        self.ahead.reach(&self.storage, host + count * cluster);
        let fresh = Some(host..host + count * cluster);
        let len = len.min(count * cluster);
        Ok(Reservation { offset, len, host, claim: Claim { image, fresh } })
    }

    /// See [`crate::format::Format::commit`].
    pub(crate) async fn commit(&self, mut reservation: Reservation) -> Result<()> {
        let (slice, first) = self.l2_slot_mut(reservation.offset).await?;
        // From here on nothing waits, so that others see the change whole or not at all.
        let fresh = reservation.claim.fresh.take().unwrap_or_default();
        for (index, host) in (first..).zip(fresh.step_by(self.cluster_size() as usize)) {
            self.tables.set_u64(&slice, index, host);
        }
        self.commit_when_crowded();
        Ok(())
    }

    /// See [`crate::format::Format::zero`]. The caller holds the lock on the clusters. A cluster stays in
    /// its place and loses its content: the format could not say that it is free.
    pub(crate) async fn zero(&self, offset: u64, len: u64, how: Clear) -> Result<()> {
        let cluster = self.cluster_size();
        let end = offset + len;
        let mut at = offset;
        let turns = Turns::default();
        while at < end {
            // In a long range, others have their turn, and a crowded cache gets its commit.
            turns.step().await;
            let run = self.map(at, end - at).await?;
            match run.content {
                Content::Data(host) => {
                    let len = run.len.next_multiple_of(cluster);
                    match how {
                        Clear::Punch => self.storage.punch(host, len).await?,
                        Clear::Zero => self.storage.zero(host, len).await?,
                        Clear::Unmap => match self.storage.unmap(host, len).await {
                            Err(e) if e.kind() == ErrorKind::Unsupported => {}
                            other => other?,
                        },
                    }
                    at += len;
                }
                // Without a backing file, absent clusters read as zeros already.
                Content::Absent if self.backing.borrow().is_some() => {
                    self.begin_change().await?;
                    let (slice, first) = self.l2_slot_mut(at).await?;
                    let count = run.len.div_ceil(cluster).min((self.entries_per_slice() - first) as u64);
                    (first..first + count as usize)
                        .for_each(|index| self.tables.set_u64(&slice, index, ZERO));
                    self.commit_when_crowded();
                    at += count * cluster;
                }
                _ => at += run.len,
            }
        }
        Ok(())
    }
}
