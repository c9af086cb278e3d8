//! A disk as NBD clients see it.

use std::rc::Rc;

use block::{Buf, Disk, ErrorKind};
use nbd::{Errno, Error, Export, Extent, Result};

/// The longest range that is trimmed or zeroed under one ticket, in bytes: a client may ask for 4 GiB,
/// and a switch waits for tickets.
const STEP: u64 = 32 << 20;

/// A disk on its own thread. Each step of a request has a ticket of its own from when its data are here
/// until its result is known; what a client does before and after holds no drain up.
pub(super) struct DiskExport(pub Rc<Disk>);

/// The number for an error of the block layer.
fn refusal(e: block::Error) -> Error {
    let errno = match e.kind() {
        ErrorKind::NoSpace => Errno::NoSpace,
        ErrorKind::ReadOnly => Errno::Perm,
        ErrorKind::OutOfRange | ErrorKind::Invalid => Errno::Invalid,
        ErrorKind::NotFound => Errno::Shutdown,
        // NOTSUP would say that another way of asking could do.
        _ => Errno::Io,
    };
    Error::new(errno, e.to_string())
}

fn steps(offset: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..len).step_by(STEP as usize).map(move |at| (offset + at, STEP.min(len - at)))
}

impl Export for DiskExport {
    fn size(&self) -> u64 {
        self.0.size()
    }

    async fn read(&self, offset: u64, buf: Buf) -> Result<()> {
        let ticket = self.0.enter().await;
        self.0.read(&ticket, offset, buf).await.map_err(refusal)
    }

    async fn write(&self, offset: u64, buf: Buf) -> Result<()> {
        let ticket = self.0.enter().await;
        self.0.write(&ticket, offset, buf).await.map_err(refusal)
    }

    async fn flush(&self) -> Result<()> {
        let ticket = self.0.enter().await;
        self.0.flush(&ticket).await.map_err(refusal)
    }

    async fn trim(&self, offset: u64, len: u64) -> Result<()> {
        for (offset, len) in steps(offset, len) {
            let ticket = self.0.enter().await;
            self.0.discard(&ticket, offset, len).await.map_err(refusal)?;
        }
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool) -> Result<()> {
        for (offset, len) in steps(offset, len) {
            let ticket = self.0.enter().await;
            self.0.write_zeroes(&ticket, offset, len, may_unmap).await.map_err(refusal)?;
        }
        Ok(())
    }

    async fn block_status(&self, offset: u64, len: u64) -> Result<Extent> {
        let _ticket = self.0.enter().await;
        let run = self.0.leaf().map(offset, len).await.map_err(refusal)?;
        let depth = if run.allocated { run.depth as u32 + 1 } else { 0 };
        Ok(Extent { len: run.len, data: run.data, depth })
    }
}
