//! A larger disk in an image.
//!
//! The new part reads as zeros, whatever the backing file has there and whatever an image kept behind
//! its end. The zeros are made durable first and the size last, so that a power cut in between leaves
//! the old size.

use crate::Result;
use crate::format::Content;
use crate::image::node::Node;
use crate::turns::Turns;

impl Node {
    /// Grows the image's disk to `size` bytes, more than now. When this returns, the size is durable.
    pub(crate) async fn grow(&self, size: u64) -> Result<()> {
        let old = self.size();
        self.format().make_room(size).await?;
        // Without metadata the file ends with the disk, so nothing is behind its end.
        if self.kind().has_metadata() {
            // Beyond this the backing file has nothing that could show through.
            let covered = self.backing().map_or(old, |backing| backing.size().clamp(old, size));
            let turns = Turns::default();
            let mut at = old;
            while at < size {
                turns.step().await;
                let run = self.format().map(at, size - at).await?;
                let end = at + run.len;
                match run.content {
                    Content::Zero => {}
                    Content::Absent if at >= covered => {}
                    Content::Absent => self.write_zeroes(at, end.min(covered) - at, true).await?,
                    _ => self.write_zeroes(at, run.len, true).await?,
                }
                at = end;
            }
        }
        // While the disk ends inside its last cluster, a request that zeroes up to the end zeroes the
        // whole cluster. It must end before the guest can write behind the old end.
        let last = old - old % self.cluster_size()..old;
        let _lock = if last.is_empty() { None } else { Some(self.lock(last).await) };
        self.format().set_size(size).await
    }
}
