//! Reads through a chain: each part comes from the image that has it.

use std::rc::Rc;

use super::{LocalFuture, Node};
use crate::format::{Compressed, Content, Reading};
use crate::pieces::all_of;
use crate::turns::Turns;
use crate::{Buf, Error, Result};

/// Maximum number of parts of one request in flight at once.
const PARTS: usize = 16;
/// Maximum number of parts of a read, per image, that are held at once: a fragmented disk may have any
/// number.
const WINDOW: usize = 256;
/// The largest block size of a device, in bytes. Reads that are multiples of it need no bounce buffer.
const LARGEST_BLOCK: u64 = 4096;

/// A part of a read that is in the image's own file.
enum Part {
    Plain(u64, Buf),
    Compressed(Compressed, u64, Buf),
}

/// A part of a read that is left to the backing file.
struct Below {
    node: Rc<Node>,
    offset: u64,
    buf: Buf,
}

impl Node {
    /// Fills `buf` from the chain. A range past the image's end reads as zeros.
    pub(crate) fn read(&self, offset: u64, buf: Buf) -> LocalFuture<'_, Result<()>> {
        Box::pin(async move {
            let _reading = self.format.reading();
            let mut at = 0;
            loop {
                let (mut own, mut below) = (Vec::new(), Vec::new());
                let rest = if at == 0 { buf.clone() } else { buf.slice(at..buf.len()) };
                at += self.look_up(offset + at as u64, rest, &mut own, &mut below).await? as usize;
                if own.len() == 1
                    && below.is_empty()
                    && at == buf.len()
                    && let Some(only) = own.pop()
                {
                    return self.read_part(only).await;
                }
                let own = own.into_iter().map(|part| self.read_part(part));
                let below = below.into_iter().map(|part| -> LocalFuture<'_, Result<()>> {
                    Box::pin(async move { read_below(part).await.map_err(Error::of_source) })
                });
                await_parts(own.chain(below)).await?;
                if at == buf.len() {
                    return Ok(());
                }
            }
        })
    }

    /// Finds the parts of a read, at most [`WINDOW`] of them: those in this image go to `own`, those of
    /// the backing file to `below`. Zeroes the parts that read as zeros. Returns the number of bytes
    /// that were looked up.
    async fn look_up(
        &self,
        offset: u64,
        buf: Buf,
        own: &mut Vec<Part>,
        below: &mut Vec<Below>,
    ) -> Result<u64> {
        let len = buf.len() as u64;
        let inside = (offset + len).min(self.size()).saturating_sub(offset);
        if inside < len {
            buf.slice(inside as usize..buf.len()).zero();
        }
        let most = own.len() + below.len() + WINDOW;
        let turns = Turns::default();
        let mut at = 0;
        while at < inside {
            if own.len() + below.len() == most {
                return Ok(at);
            }
            let run = self.format.map(offset + at, inside - at).await?;
            tracing::trace!(image = self.name(), at = offset + at, len = run.len, content = ?run.content, "mapped");
            let part = buf.slice(at as usize..(at + run.len) as usize);
            match (run.content, self.backing()) {
                (Content::Data(host), _) => own.push(Part::Plain(host, part)),
                (Content::Compressed(packed, within), _) => own.push(Part::Compressed(packed, within, part)),
                (Content::Absent, Some(node)) => below.push(Below { node, offset: offset + at, buf: part }),
                (Content::Zero | Content::Absent, _) => part.zero(),
            }
            at += run.len;
            turns.step().await;
        }
        Ok(len)
    }

    fn read_part(&self, part: Part) -> LocalFuture<'_, Result<()>> {
        match part {
            Part::Plain(host, buf) => self.storage_read(host, buf),
            Part::Compressed(packed, within, buf) => {
                Box::pin(self.format.read_compressed(packed, within, buf))
            }
        }
    }

    /// Reads from the image's own file. Tables may point past its end, where zeros are read: no more is
    /// requested from the file than the rest of the cluster, or block, in which it ends.
    fn storage_read(&self, host: u64, part: Buf) -> LocalFuture<'_, Result<()>> {
        let unit = self.cluster_size().max(LARGEST_BLOCK);
        let file = self.storage.len();
        let inside = file.checked_next_multiple_of(unit).unwrap_or(file).saturating_sub(host);
        if inside >= part.len() as u64 {
            return self.storage.read(host, part);
        }
        let inside = inside as usize;
        part.slice(inside..part.len()).zero();
        if inside == 0 { Box::pin(async { Ok(()) }) } else { self.storage.read(host, part.slice(0..inside)) }
    }
}

/// Reads from a backing file and those behind it. A deep chain does not take a deep stack.
async fn read_below(part: Below) -> Result<()> {
    let (mut found, mut readings): (_, Vec<Option<Reading>>) = (Vec::new(), Vec::new());
    let mut left = vec![part];
    let turns = Turns::default();
    let read = |(node, part): (Rc<Node>, Part)| -> LocalFuture<'static, Result<()>> {
        Box::pin(async move { node.read_part(part).await })
    };
    while let Some(Below { node, offset, buf }) = left.pop() {
        readings.push(node.format.reading());
        let mut own = Vec::new();
        let known = node.look_up(offset, buf.clone(), &mut own, &mut left).await?;
        found.extend(own.into_iter().map(|part| (node.clone(), part)));
        if known < buf.len() as u64 {
            left.push(Below { node, offset: offset + known, buf: buf.slice(known as usize..buf.len()) });
        }
        if found.len() >= WINDOW {
            await_parts(found.drain(..).map(read)).await?;
            readings.clear();
        }
        turns.step().await;
    }
    await_parts(found.into_iter().map(read)).await
}

/// Awaits all parts of a request. A single one needs no list.
async fn await_parts<'a>(mut parts: impl Iterator<Item = LocalFuture<'a, Result<()>>>) -> Result<()> {
    let (first, second) = (parts.next(), parts.next());
    let first = match (first, &second) {
        (Some(only), None) => return only.await,
        (first, _) => first,
    };
    all_of(first.into_iter().chain(second).chain(parts), PARTS).await
}
