//! A disk grows while it runs.
//!
//! What is new reads as zeros, whatever the backing file has there and whatever an image kept behind
//! its end: that is made durable first, and the size last, so that a cut in between leaves the old size.

use std::rc::Rc;

use crate::disk::Disk;
use crate::format::What;
use crate::node::Node;
use crate::{Error, ErrorKind, Result};

impl Disk {
    /// Makes the disk `size` bytes large and tells the guest. When this answers, the size is durable.
    ///
    /// # Errors
    /// `InUse` where a job or a switch has the disk; `Unsupported` for a smaller size; `ReadOnly`;
    /// `Invalid` where the format cannot have that size.
    pub async fn resize(self: &Rc<Self>, size: u64) -> Result<()> {
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
        let cluster = self.cluster_size();
        self.format().make_room(size).await?;
        // Beyond this nothing shows through.
        let covered = self.backing().map_or(old, |backing| backing.size().clamp(old, size));
        let edge = old.next_multiple_of(cluster);
        let mut at = old;
        while at < edge.min(size) {
            let run = self.format().map(at, edge.min(size) - at).await?;
            match run.what {
                What::Zero => {}
                What::Absent if at >= covered => {}
                _ => self.write_zero_bytes(at, run.len).await?,
            }
            at += run.len;
        }
        if covered > edge {
            let zeroed = {
                let _lock = self.lock(edge..covered).await;
                self.format().zero(edge, covered - edge).await
            };
            match zeroed {
                Err(e) if e.kind() == ErrorKind::Unsupported => {
                    self.write_zero_bytes(edge, covered - edge).await?;
                }
                other => other?,
            }
        }
        self.format().set_size(size).await
    }
}
