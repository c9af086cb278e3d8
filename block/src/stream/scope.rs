//! The part of an image that a stream has to populate.

use std::ops::Range;
use std::rc::Rc;

use crate::node::Node;
use crate::turns::Turns;
use crate::{Error, Result};

/// The longest step over ranges that need not be populated, in bytes.
const FARTHEST: u64 = 1 << 30;

/// An image, and how far down its chain a stream goes.
pub(super) struct Scope {
    pub image: Rc<Node>,
    /// The image that stays behind it; `None` if the whole chain is streamed.
    pub base: Option<Rc<Node>>,
    /// Number of images between the two.
    between: usize,
}

impl Scope {
    pub(super) fn whole(image: Rc<Node>) -> Self {
        Scope { image, base: None, between: usize::MAX }
    }

    /// Creates the scope of a stream down to `base`, which must be in the chain of `image`.
    pub(super) fn above(image: Rc<Node>, base: Option<Rc<Node>>) -> Self {
        let Some(base) = base else { return Self::whole(image) };
        let mut between = 0;
        let mut next = image.backing();
        while let Some(node) = next.take_if(|node| !Rc::ptr_eq(node, &base)) {
            between += 1;
            next = node.backing();
        }
        Scope { image, base: Some(base), between }
    }

    /// Returns true if there is nothing to copy from: there is no backing file, or the base is right
    /// behind the image.
    pub(super) fn is_empty(&self) -> bool {
        self.image.backing().is_none() || self.between == 0
    }

    /// Returns the first absent range in `range`, at most `most` bytes long, that an image between this
    /// one and the base defines. The base's own data stays there.
    pub(super) async fn next_absent(&self, range: Range<u64>, most: u64) -> Result<Option<Range<u64>>> {
        let Some(backing) = self.image.backing().filter(|_| self.base.is_some()) else {
            return self.image.next_absent(range, most).await;
        };
        let turns = Turns::default();
        let (mut at, mut look) = (range.start, most.max(self.image.cluster_size()));
        while let Some(absent) = self.image.next_absent(at..range.end, look).await? {
            at = absent.start;
            while at < absent.end {
                let below = backing.map(at, absent.end - at).await.map_err(Error::of_source)?;
                let end = at + below.len;
                if below.depth < self.between {
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
}
