//! The part of an image that a stream has to populate.

use std::ops::Range;
use std::rc::Rc;

use async_trait::async_trait;

use crate::image::copy::{Populated, Stopped, populate};
use crate::image::node::Node;
use crate::job::copier::Work;
use crate::turns::Turns;
use crate::{Error, Result};

/// The longest step over ranges that need not be populated, in bytes.
const FARTHEST: u64 = 1 << 30;

/// An image, and how far down its chain a stream goes. Other images of the chain may be opened again
/// meanwhile, so that they are found by their places.
#[derive(Clone)]
pub(super) struct Scope {
    pub image: Rc<Node>,
    /// Number of images between this one and the base; `None` if the whole chain is streamed.
    pub between: Option<usize>,
}

impl Scope {
    /// Returns the image that stays behind, as it is now.
    pub(super) fn base(&self) -> Option<Rc<Node>> {
        std::iter::successors(self.image.backing(), |node| node.backing()).nth(self.between?)
    }

    /// Returns true if there is nothing to copy from: there is no backing file, or the base is right
    /// behind the image.
    pub(super) fn is_empty(&self) -> bool {
        self.image.backing().is_none() || self.between == Some(0)
    }
}

#[async_trait(?Send)]
impl Work for Scope {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn unit(&self) -> u64 {
        self.image.cluster_size()
    }

    /// Returns the first absent range in `range`, at most `most` bytes long, that an image between this
    /// one and the base defines. The base's own data stays there.
    async fn next(&self, range: Range<u64>, most: u64) -> Result<Option<Range<u64>>> {
        let (Some(backing), Some(between)) = (self.image.backing(), self.between) else {
            return self.image.next_absent(range, most).await;
        };
        let turns = Turns::default();
        let (mut at, mut look) = (range.start, most.max(self.image.cluster_size()));
        while let Some(absent) = self.image.next_absent(at..range.end, look).await? {
            at = absent.start;
            while at < absent.end {
                let below = backing.map(at, absent.end - at).await.map_err(Error::of_source)?;
                let end = at + below.len;
                if below.depth < between {
                    // Whole clusters are populated.
                    let end = end.next_multiple_of(self.image.cluster_size()).min(absent.end);
                    return Ok(Some(at..end.min(at.saturating_add(most))));
                }
                at = end;
                turns.step().await;
            }
            // Most of the disk may be the base's, so the steps over it grow.
            look = (look * 2).min(FARTHEST.max(most));
        }
        Ok(None)
    }

    async fn look(&self, offset: u64, len: u64) -> Result<(u64, bool)> {
        let Some(backing) = self.image.backing() else { return Ok((len, false)) };
        let run = backing.map(offset, len).await.map_err(Error::of_source)?;
        Ok((run.len, run.data))
    }

    async fn copy(&self, range: Range<u64>) -> std::result::Result<Populated, Stopped> {
        populate(&self.image, range).await
    }

    async fn flush(&self) -> Result<()> {
        self.image.flush().await
    }
}
