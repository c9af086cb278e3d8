//! Growing the virtual size (QEMU `docs/interop/qcow2.txt`, "Header", "L1 table").

use super::Qcow2;
use super::header::MAX_L1_BYTES;
use crate::format::cow::cache::SECTOR;
use crate::{Buf, Error, ErrorKind, Result};

impl Qcow2 {
    /// Makes the L1 table large enough for a disk of `size` bytes. A table that grows moves: the next
    /// commit writes all of it, and then the header that names it.
    pub(crate) async fn make_room(&self, size: u64) -> Result<()> {
        self.or_refuse(self.try_make_room(size)).await
    }

    async fn try_make_room(&self, size: u64) -> Result<()> {
        self.begin_change().await?;
        let refuse = |kind, what: &str| Error::new(kind, format!("{}: {what}", self.storage.name()));
        if self.header.version < 3 && self.header.snapshots > 0 {
            let what = "has snapshots, which in version 2 of qcow2 have the size of the disk";
            return Err(refuse(ErrorKind::Unsupported, what));
        }
        let entries = size.div_ceil(self.header.l2_coverage());
        if entries * 8 > MAX_L1_BYTES || size > i64::MAX as u64 {
            let what = format!("{size} bytes are too much for its cluster size");
            return Err(refuse(ErrorKind::Invalid, &what));
        }
        if entries <= self.l1.borrow().entries.len() as u64 {
            return Ok(());
        }
        let cluster = self.cluster_size();
        let place = self.refcounts.allocate_run((entries * 8).div_ceil(cluster)).await?;
        let place = place..place + (entries * 8).next_multiple_of(cluster);
        // The commit writes the entries; if there is no space for them, nothing has changed.
        let room = Buf::new((place.end - place.start) as usize);
        if let Err(e) = self.storage.write(place.start, room).await {
            self.refcounts.free_now(place).await?;
            return Err(e);
        }
        {
            let mut l1 = self.l1.borrow_mut();
            let len = (l1.entries.len() as u64 * 8).next_multiple_of(cluster);
            let old = l1.offset..l1.offset + len;
            // Moved twice before a commit: the place in between is free once the file names the new one.
            if l1.moved.is_some() {
                self.metadata.remove(old.clone());
                self.refcounts.free_later(old);
            } else {
                l1.moved = Some(old);
            }
            l1.offset = place.start;
            self.metadata.add(place.start..place.start + entries * 8);
            l1.entries.resize(entries as usize, 0);
            l1.dirty = (0..l1.entries.len().div_ceil(SECTOR / 8)).collect();
        }
        self.flush().await
    }

    /// Sets the size of the disk durably, after all earlier changes.
    pub(crate) async fn set_size(&self, size: u64) -> Result<()> {
        self.flush().await?;
        self.patch_header(|sector| sector[24..32].copy_from_slice(&size.to_be_bytes())).await?;
        self.size.set(size);
        Ok(())
    }
}
