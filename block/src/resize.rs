//! A disk grows while it runs.
//!
//! What is new reads as zeros, whatever the backing file has there and whatever an image kept behind
//! its end: that is made durable first, and the size last, so that a cut in between leaves the old size.

use std::rc::Rc;

use crate::disk::Disk;
use crate::format::What;
use crate::node::Node;
use crate::turns::Turns;
use crate::{Error, ErrorKind, Kind, Result};

impl Disk {
    /// Makes the disk `size` bytes large and tells the guest. When this answers, the size is durable.
    ///
    /// # Errors
    /// `InUse` where a job or a switch has the disk; `Unsupported` for a smaller size; `ReadOnly`;
    /// `Invalid` where the format cannot have that size.
    pub async fn resize(self: &Rc<Self>, size: u64) -> Result<()> {
        let this = self.clone();
        // To its end, whoever asked: the claim and the locks are held until nothing is in flight.
        executor::to_the_end(async move { this.resize_now(size).await }).await
    }

    async fn resize_now(self: &Rc<Self>, size: u64) -> Result<()> {
        if self.read_only() {
            return Err(Error::new(ErrorKind::ReadOnly, "Image is read-only"));
        }
        if !size.is_multiple_of(512) {
            return Err(Error::new(ErrorKind::Invalid, "The new size must be a multiple of 512"));
        }
        let _claim = self.claim("a resize")?;
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
        // A raw image's file ends with the disk.
        if self.kind() != Kind::Raw {
            // Beyond this nothing shows through.
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
        // Whoever zeroes the last cluster zeroes all of it, while the disk ends inside of it: what the guest
        // writes behind the old end must come after that.
        let last = old - old % self.cluster_size()..old;
        let _lock = if last.is_empty() { None } else { Some(self.lock(last).await) };
        self.format().set_size(size).await
    }
}
