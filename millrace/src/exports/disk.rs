//! A disk as NBD clients see it.

use std::rc::Rc;

use block::disk::{Front, PIECE, first_piece};
use block::{Buf, ErrorKind};
use nbd::{Errno, Error, Export, Extent, Result};

/// A disk on its own thread. Each piece of a request has its own ticket from the arrival of its data until
/// its result is known. So a drain never waits for a client, and for no more than a piece of any request.
pub(super) struct DiskExport<F: Front> {
    pub disk: Rc<F>,
    /// True if each write is flushed before the reply to it.
    pub writethrough: bool,
}

/// Converts an error of the block layer to one of NBD.
fn refusal(e: block::Error) -> Error {
    let errno = match e.kind() {
        ErrorKind::NoSpace => Errno::NoSpace,
        ErrorKind::ReadOnly => Errno::Perm,
        ErrorKind::OutOfRange | ErrorKind::Invalid => Errno::Invalid,
        ErrorKind::NotFound => Errno::Shutdown,
        // NOTSUP would mean that a different request could succeed.
        _ => Errno::Io,
    };
    Error::new(errno, e.to_string())
}

impl<F: Front> DiskExport<F> {
    /// Runs a request of `len` bytes at `offset` in pieces of at most `most` bytes, one after the other.
    async fn in_pieces(
        &self,
        offset: u64,
        len: u64,
        most: u64,
        work: impl AsyncFn(&F::Ticket, u64, u64) -> block::Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while done < len {
            let piece = first_piece(offset + done, len - done, most);
            let mut ticket = self.disk.enter().await;
            F::carry(&mut ticket, piece);
            work(&ticket, offset + done, piece).await.map_err(refusal)?;
            done += piece;
        }
        Ok(())
    }

    /// Flushes after a write, if `writethrough` is set.
    async fn written(&self) -> Result<()> {
        if self.writethrough { self.flush().await } else { Ok(()) }
    }
}

impl<F: Front> Export for DiskExport<F> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    async fn read(&self, offset: u64, buf: Buf) -> Result<()> {
        let read = async |ticket: &F::Ticket, at: u64, len: u64| {
            let start = (at - offset) as usize;
            self.disk.read(ticket, at, buf.slice(start..start + len as usize)).await
        };
        self.in_pieces(offset, buf.len() as u64, PIECE, read).await
    }

    async fn write(&self, offset: u64, buf: Buf) -> Result<()> {
        let write = async |ticket: &F::Ticket, at: u64, len: u64| {
            let start = (at - offset) as usize;
            self.disk.write(ticket, at, buf.slice(start..start + len as usize)).await
        };
        self.in_pieces(offset, buf.len() as u64, PIECE, write).await?;
        self.written().await
    }

    async fn flush(&self) -> Result<()> {
        let ticket = self.disk.enter().await;
        self.disk.flush(&ticket).await.map_err(refusal)
    }

    async fn trim(&self, offset: u64, len: u64) -> Result<()> {
        let trim = async |ticket: &F::Ticket, at, len| self.disk.discard(ticket, at, len).await;
        self.in_pieces(offset, len, self.disk.zero_piece(), trim).await?;
        self.written().await
    }

    async fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool) -> Result<()> {
        let zero =
            async |ticket: &F::Ticket, at, len| self.disk.write_zeroes(ticket, at, len, may_unmap).await;
        self.in_pieces(offset, len, self.disk.zero_piece(), zero).await?;
        self.written().await
    }

    async fn block_status(&self, offset: u64, len: u64) -> Result<Extent> {
        let ticket = self.disk.enter().await;
        let run = self.disk.map(&ticket, offset, len).await.map_err(refusal)?;
        let depth = if run.allocated { run.depth as u32 + 1 } else { 0 };
        Ok(Extent { len: run.len, data: run.data, depth })
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
