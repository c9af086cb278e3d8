//! The content of a chain, found without reading data: runs of data and zeros, places in files, absent
//! ranges.

use std::ops::Range;
use std::rc::Rc;

use super::node::Node;
use crate::Result;
use crate::format::Content;
use crate::turns::Turns;

/// A run of the disk, as its chain maps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// Length in bytes, at least 1.
    pub len: u64,
    /// False if it reads as zeros and no image of the chain has data for it.
    pub data: bool,
    /// Depth of the image that the content comes from: 0 is the leaf.
    pub depth: usize,
    /// True if some image of the chain defines the content, zeros included. Raw images always do, and a
    /// backing file defines the range behind its own end.
    pub allocated: bool,
}

/// A place in the storage of an image.
pub(crate) struct Located {
    pub node: Rc<Node>,
    pub host: u64,
    pub len: u64,
}

impl Node {
    /// Returns the run at `offset` as the chain from this image on maps it, at most `len` bytes long.
    /// Reads no data.
    pub async fn map(&self, offset: u64, mut len: u64) -> Result<Run> {
        let mut behind: Option<Rc<Node>> = None;
        let turns = Turns::default();
        let mut depth = 0;
        loop {
            let node = behind.as_deref().unwrap_or(self);
            if offset >= node.size() {
                return Ok(Run { len, data: false, depth, allocated: true });
            }
            let run = node.format().map(offset, len.min(node.size() - offset)).await?;
            let (data, allocated) = match (run.content, node.backing()) {
                (Content::Data(host), _) if !node.kind().has_metadata() => {
                    let extent = node.storage().map(host, run.len).await?;
                    return Ok(Run { len: extent.len, data: extent.data, depth, allocated: true });
                }
                (Content::Data(_) | Content::Compressed(..), _) => (true, true),
                (Content::Absent, Some(backing)) => {
                    (len, depth, behind) = (run.len, depth + 1, Some(backing));
                    turns.step().await;
                    continue;
                }
                (content, _) => (false, content == Content::Zero),
            };
            return Ok(Run { len: run.len, data, depth, allocated });
        }
    }

    /// Finds the data at `offset`: the image of the chain that has it, its offset in that image's
    /// storage, and its length in bytes, at most `len`. `None` if no image has it as plain bytes.
    pub(crate) async fn locate(self: &Rc<Self>, offset: u64, mut len: u64) -> Result<Option<Located>> {
        let mut node = self.clone();
        let turns = Turns::default();
        loop {
            if offset >= node.size() {
                return Ok(None);
            }
            let run = node.format().map(offset, len.min(node.size() - offset)).await?;
            match (run.content, node.backing()) {
                (Content::Data(host), _) => {
                    let len = run.len.min(node.storage().len().saturating_sub(host));
                    return Ok(Some(Located { node, host, len }).filter(|found| found.len > 0));
                }
                (Content::Absent, Some(backing)) => (len, node) = (run.len, backing),
                _ => return Ok(None),
            }
            turns.step().await;
        }
    }

    /// Returns the first absent range of this image in `range`, at most `most` bytes long.
    pub(crate) async fn next_absent(&self, range: Range<u64>, most: u64) -> Result<Option<Range<u64>>> {
        let end = range.end.min(self.size());
        let turns = Turns::default();
        let mut at = range.start;
        let mut found: Option<Range<u64>> = None;
        while at < end {
            turns.step().await;
            let run = self.format().map(at, end - at).await?;
            match (&mut found, run.content == Content::Absent) {
                (None, true) => found = Some(at..at + run.len),
                (Some(found), true) => found.end = at + run.len,
                (Some(_), false) => break,
                (None, false) => {}
            }
            at += run.len;
            if let Some(found) = &mut found
                && found.end - found.start >= most
            {
                found.end = found.start + most;
                break;
            }
        }
        Ok(found)
    }
}
