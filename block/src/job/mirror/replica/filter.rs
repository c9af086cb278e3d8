//! The guest's requests on their way to both sides.

use async_trait::async_trait;
use futures_util::future::join;

use super::Replica;
use crate::disk::filter::{Below, Filter};
use crate::image::copy::copy_over;
use crate::{Buf, Result};

#[async_trait(?Send)]
impl Filter for Replica {
    async fn write(&self, below: Below<'_>, offset: u64, buf: Buf) -> Result<()> {
        let _inside = self.granules.enter();
        let range = offset..offset + buf.len() as u64;
        let began = executor::now();
        if !self.active.get() {
            let result = below.write(offset, buf).await;
            #[cfg(test)]
            if crate::sim::planted::forgets() {
                return result;
            }
            self.mark(&range);
            self.late.ended(began);
            return result;
        }
        let (_lock, room) = self.lock_for_write(&range).await;
        let mut at = offset;
        while at < range.end {
            let (part, is_todo) = self.granules.first_part(at..range.end);
            let data = buf.slice((part.start - offset) as usize..(part.end - offset) as usize);
            at = part.end;
            // What is to be copied has its bit set, and the copier waits for the lock.
            match (is_todo, &room) {
                (true, _) => below.write(part.start, data).await?,
                (false, None) => self.write_to_both(&below, part.start, data).await?,
                (false, Some(room)) => self.write_behind(&below, part.start, data, room).await?,
            }
        }
        self.late.ended(began);
        Ok(())
    }

    async fn write_zeroes(&self, below: Below<'_>, offset: u64, len: u64, unmap: bool) -> Result<()> {
        let _inside = self.granules.enter();
        let range = offset..offset + len;
        if !self.active.get() {
            let result = below.write_zeroes(offset, len, unmap).await;
            self.mark(&range);
            return result;
        }
        let _lock = self.lock_without_data(&range).await;
        let mut at = offset;
        while at < range.end {
            let (part, is_todo) = self.granules.first_part(at..range.end);
            let len = part.end - part.start;
            at = part.end;
            let source = below.write_zeroes(part.start, len, unmap);
            if is_todo {
                source.await?;
                continue;
            }
            self.behind.settled(&part).await;
            let Some(target) = self.try_enter() else {
                self.source_alone(part, source).await?;
                continue;
            };
            let (source, target) = join(source, target.node.write_zeroes(part.start, len, unmap)).await;
            self.both_ended(part, source, target)?;
        }
        Ok(())
    }

    async fn discard(&self, below: Below<'_>, offset: u64, len: u64) -> Result<()> {
        let _inside = self.granules.enter();
        // The source may read as before or as zeros afterwards, and the target must read the same: it is
        // copied.
        let range = offset..offset + len;
        if !self.active.get() {
            let result = below.discard(offset, len).await;
            self.mark(&range);
            return result;
        }
        let _lock = self.lock_without_data(&range).await;
        let result = below.discard(offset, len).await;
        let mut at = offset;
        while at < range.end {
            let (part, is_todo) = self.granules.first_part(at..range.end);
            at = part.end;
            if is_todo {
                continue;
            }
            self.behind.settled(&part).await;
            let Some(target) = self.try_enter() else {
                self.mark(&part);
                continue;
            };
            let copied = copy_over(self.granules.source(), &target.node, part.clone()).await;
            self.wrote(&part);
            if let Err(stopped) = copied {
                self.mark(&part);
                self.granules.note(stopped.error);
            }
        }
        result
    }

    async fn flush(&self, below: Below<'_>) -> Result<()> {
        let _inside = self.granules.enter();
        if !self.both_flush.get() {
            return below.flush().await;
        }
        let (source, target) = join(below.flush(), self.flush_all()).await;
        if let Err(error) = target {
            self.granules.note(error);
        }
        source
    }
}
