//! Copy-on-read: data that a guest reads from the backing chain is also written to the leaf.
//!
//! A read completes as soon as the data is in a bounce buffer. A separate task, which holds a ticket so
//! that a drain awaits it, writes the copy. If a copy fails, or no memory is left for its buffer, the
//! range stays absent; the read is correct all the same.

use std::ops::Range;
use std::rc::Rc;

use async_trait::async_trait;
use executor::sync::{Permit, Semaphore};

use super::filter::{Below, Filter};
use crate::disk::{Disk, Ticket};
use crate::format::Content;
use crate::image::copy::{Populated, store};
use crate::image::node::{LocalFuture, Node};
use crate::pieces::all_of;
use crate::turns::Turns;
use crate::{Buf, Result};

/// Maximum number of bytes that the copies of one disk hold at once.
const BOUNCE: u64 = 16 << 20;
/// The largest copy in bytes: bounds the wait of a guest's write that overlaps it.
const LARGEST: u64 = 1 << 20;
/// Maximum number of parts of one request in flight at once.
const PARTS: usize = 16;

/// The filter; see the module.
pub(crate) struct CopyOnRead {
    /// Room for the copies that reads leave, in bytes.
    pub(crate) bounce: Rc<Semaphore>,
}

impl Disk {
    /// Copies what is read from the backing chain into the leaf, or stops doing so. A disk that is only
    /// read takes no copies.
    pub fn set_copy_on_read(&self, on: bool) {
        let filter = match on && !self.read_only() {
            true => Some(Rc::new(CopyOnRead { bounce: Semaphore::new(BOUNCE) })),
            false => None,
        };
        let old = self.copy_on_read.replace(filter.clone()).map(|old| old as Rc<dyn Filter>);
        self.change_filters(|filters| {
            filters.retain(|other| !old.as_ref().is_some_and(|old| Rc::ptr_eq(other, old)));
            // Last: the copy is the leaf's.
            filters.extend(filter.map(|filter| filter as Rc<dyn Filter>));
        });
    }
}

#[async_trait(?Send)]
impl Filter for CopyOnRead {
    async fn read(&self, below: Below<'_>, offset: u64, buf: Buf) -> Result<()> {
        let (ticket, leaf) = (below.ticket, below.leaf);
        let Some(backing) = leaf.backing() else { return below.read(offset, buf).await };
        let end = offset + buf.len() as u64;
        let mut parts: Vec<LocalFuture<'_, Result<()>>> = Vec::new();
        let turns = Turns::default();
        let mut at = offset;
        while at < end {
            turns.step().await;
            let run = leaf.format().map(at, (end - at).min(LARGEST)).await?;
            let (len, data) = match run.content {
                Content::Absent => {
                    let below = backing.map(at, run.len).await?;
                    (below.len.min(run.len), below.data)
                }
                _ => (run.len, false),
            };
            let part = buf.slice((at - offset) as usize..(at - offset + len) as usize);
            let range = at..at + len;
            let unit = run.granule;
            let whole = range.start - range.start % unit..range.end.next_multiple_of(unit).min(leaf.size());
            let room = data.then(|| self.bounce.try_acquire(whole.end - whole.start)).flatten();
            match room {
                Some(room) => {
                    let (leaf, backing, ticket) = (leaf.clone(), backing.clone(), ticket.again());
                    parts.push(Box::pin(read_and_copy(leaf, backing, ticket, room, range, whole, part)));
                }
                None => {
                    let leaf = leaf.clone();
                    parts.push(Box::pin(async move { leaf.read(range.start, part).await }));
                }
            }
            at += len;
        }
        all_of(parts, PARTS).await
    }
}

/// Reads `range`, the part of `whole` that the guest requested, and spawns a task that writes the copy
/// of `whole`.
async fn read_and_copy(
    leaf: Rc<Node>,
    backing: Rc<Node>,
    ticket: Ticket,
    room: Permit,
    range: Range<u64>,
    whole: Range<u64>,
    part: Buf,
) -> Result<()> {
    let bounce = leaf.pool.get((whole.end - whole.start) as usize);
    backing.read(whole.start, bounce.clone()).await?;
    let start = (range.start - whole.start) as usize;
    part.copy_from_buf(&bounce.slice(start..start + part.len()));
    executor::spawn(async move {
        if let Err(e) = keep(&leaf, &backing, whole.clone(), bounce).await {
            tracing::debug!("{}: copy-on-read at {} failed: {e}", leaf.name(), whole.start);
        }
        drop((ticket, room));
    });
    Ok(())
}

/// Writes the still absent parts of `range` from `buf`, which was read from `backing`. While `backing`
/// is behind the leaf, an absent cluster still reads as it did before the lock. Later, absence may mean
/// zeros: version 2 of qcow2 has no other way to record them.
async fn keep(leaf: &Node, backing: &Rc<Node>, range: Range<u64>, mut buf: Buf) -> Result<()> {
    let _lock = leaf.lock_for_job(range.clone()).await;
    // The end of a stream removes the record first, then the node.
    let is_behind = leaf.backing().is_some_and(|now| Rc::ptr_eq(&now, backing));
    if !is_behind || leaf.format().backing().is_none() {
        return Ok(());
    }
    let mut done = Populated::default();
    let mut at = range.start;
    while at < range.end {
        let run = leaf.format().map(at, range.end - at).await?;
        if run.content == Content::Absent {
            store(leaf, at..at + run.len, &mut buf, range.start, run.granule, &mut at.clone(), &mut done)
                .await?;
        }
        at += run.len;
    }
    leaf.pool.put(buf);
    Ok(())
}
