//! Grows a disk while it runs.
//!
//! The new part reads as zeros, whatever the backing file has there and whatever an image kept behind
//! its end. The zeros are made durable first and the size last, so that a power cut in between leaves
//! the old size.

use std::rc::Rc;

use crate::disk::Disk;
use crate::format::What;
use crate::image::node::Node;
use crate::turns::Turns;
use crate::{Error, ErrorKind, Kind, Result};

impl Disk {
    /// Grows the disk to `size` bytes and notifies the guest. When this returns, the size is durable.
    ///
    /// # Errors
    /// `InUse` if a job or a switch has claimed the disk; `Unsupported` for a smaller size; `ReadOnly` for
    /// a read-only disk; `Invalid` if the size is not a multiple of 512, or the format cannot have it.
    pub async fn resize(self: &Rc<Self>, size: u64) -> Result<()> {
        let this = self.clone();
        // Runs to its end even if the caller goes away: the claim and the locks must be held until
        // nothing is in flight.
        executor::to_the_end(async move { this.resize_now(size).await }).await
    }

    async fn resize_now(self: &Rc<Self>, size: u64) -> Result<()> {
        if self.read_only() {
            return Err(Error::new(ErrorKind::ReadOnly, "Image is read-only"));
        }
        if !size.is_multiple_of(512) {
            return Err(Error::new(ErrorKind::Invalid, "The new size must be a multiple of 512"));
        }
        let _claim = self.claim_whole("a resize")?;
        let leaf = self.leaf();
        if size < leaf.size() {
            let text = format!(
                "{}: shrinking from {} to {size} bytes would throw data away, and is not supported",
                leaf.name(),
                leaf.size()
            );
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        if size > leaf.size() {
            leaf.grow(size).await?;
            self.cursor.set(0);
            self.announce_capacity();
        }
        Ok(())
    }
}

impl Node {
    async fn grow(&self, size: u64) -> Result<()> {
        let old = self.size();
        self.format().make_room(size).await?;
        // A raw image's file ends with the disk, so nothing is behind its end.
        if self.kind() != Kind::Raw {
            // Beyond this the backing file has nothing that could show through.
            let covered = self.backing().map_or(old, |backing| backing.size().clamp(old, size));
            let turns = Turns::default();
            let mut at = old;
            while at < size {
                turns.step().await;
                let run = self.format().map(at, size - at).await?;
                let end = at + run.len;
                match run.what {
                    What::Zero => {}
                    What::Absent if at >= covered => {}
                    What::Absent => self.write_zeroes(at, end.min(covered) - at, true).await?,
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
