//! Host clusters of ranges that read as zeros or as the backing file: space that is kept for later
//! ("preallocated" in QEMU's words). Only `image map` uses this.

use super::Qcow2;
use crate::Result;

impl Qcow2 {
    /// Returns the offset in the file of the space that is kept for `offset`, if any, and the length of
    /// the run, at most `len` bytes, over which that goes on: contiguous, or without space throughout.
    pub(crate) async fn reserved_host(&self, offset: u64, len: u64) -> Result<(Option<u64>, u64)> {
        let Some((slice, first)) = self.slice(offset).await? else { return Ok((None, len)) };
        let within = offset % self.cluster_size();
        let host = |index| Ok::<_, crate::Error>(self.checked_entry(&slice, index)?.host);
        let start = host(first)?;
        let mut run = self.cluster_size() - within;
        for index in first + 1..self.entries_per_slice() {
            let expected = start.map(|start| start + within + run);
            if run >= len || host(index)? != expected {
                break;
            }
            run += self.cluster_size();
        }
        Ok((start.map(|start| start + within), run.min(len)))
    }

    /// Returns true if the image seems to have preallocated clusters that were never written, and are
    /// holes of its file. The rule is QEMU's, so that both report the same: the clusters counted as in use
    /// exceed those that the file has space for by a ninth, and by at least two.
    pub(crate) async fn has_unwritten(&self) -> Result<bool> {
        if let Some(known) = self.unwritten.get() {
            return Ok(known);
        }
        let known = match self.storage.space() {
            Some(space) => {
                let real = space / self.cluster_size();
                let enough = (real + real / 9).max(real + 2);
                // A refcount block with a count in it takes space itself, which bounds the number of
                // blocks.
                self.refcounts.count_used(enough, real + 1).await? >= enough
            }
            None => false,
        };
        self.unwritten.set(Some(known));
        Ok(known)
    }
}
