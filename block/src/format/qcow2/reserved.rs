//! Host clusters behind what reads as zeros or as the backing file: space that is kept for later
//! ("preallocated" in QEMU's words). Only `image map` asks.

use super::Qcow2;
use crate::Result;

impl Qcow2 {
    /// Where the file keeps space for `offset`, and for how long a run, at most `len` bytes, that goes
    /// on: contiguous, or without space throughout.
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

    /// Whether the image seems to have clusters that were never written: preallocated, they are holes of
    /// its file. QEMU's rule, so that both say the same: a tenth more clusters are counted as in use, and two
    /// at least, than the file has space for.
    pub(crate) async fn has_unwritten(&self) -> Result<bool> {
        if let Some(known) = self.unwritten.get() {
            return Ok(known);
        }
        let known = match self.storage.space() {
            Some(space) => {
                let real = space / self.cluster_size();
                let enough = (real + real / 9).max(real + 2);
                // Blocks with a count in them take space themselves.
                self.refcounts.count_used(enough, real + 1).await? >= enough
            }
            None => false,
        };
        self.unwritten.set(Some(known));
        Ok(known)
    }
}
