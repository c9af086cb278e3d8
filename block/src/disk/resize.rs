//! Grows a disk while it runs; `image/grow.rs` has the order of what becomes durable.

use std::rc::Rc;

use crate::disk::Disk;
use crate::{Error, ErrorKind, Result};

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
