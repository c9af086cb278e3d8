//! Growing the virtual size (QEMU `docs/interop/qed_spec.txt`, "Header"). The L1 table has room for any
//! size.

use super::Qed;
use super::header::SIZE;
use crate::format::cow::commit::patch_header;
use crate::{Error, ErrorKind, Result};

impl Qed {
    /// Fails if the tables cannot map a disk of `size` bytes.
    pub(crate) fn make_room(&self, size: u64) -> Result<()> {
        let most = self.header.max_size();
        if size > most || !size.is_multiple_of(512) {
            let text = format!(
                "{}: {size} bytes: its tables map multiples of 512 up to {most} bytes",
                self.storage.name()
            );
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        Ok(())
    }

    /// Sets the size of the disk durably, after all earlier changes.
    pub(crate) async fn set_size(&self, size: u64) -> Result<()> {
        self.flush().await?;
        let change = |sector: &mut [u8]| sector[SIZE].copy_from_slice(&size.to_le_bytes());
        patch_header(&*self.storage, &self.patching, change).await?;
        self.size.set(size);
        Ok(())
    }
}
