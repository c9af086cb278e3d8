//! What of an image a stream has to populate.

use std::ops::Range;
use std::rc::Rc;

use crate::node::Node;
use crate::{Error, Result};

/// An image, and how far down its chain a stream goes.
pub(super) struct Scope {
    pub image: Rc<Node>,
    /// What stays behind the image.
    pub base: Option<Rc<Node>>,
    /// Images between the two.
    between: usize,
}

impl Scope {
    pub(super) fn whole(image: Rc<Node>) -> Self {
        Scope { image, base: None, between: usize::MAX }
    }

    /// Down to `base`, which is in the chain of `image`.
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

    /// The first absent range in `range`, no longer than `most`, for which an image between this one
    /// and the base says something. The base's own data stay there.
    pub(super) async fn next_absent(&self, range: Range<u64>, most: u64) -> Result<Option<Range<u64>>> {
        let Some(backing) = self.image.backing().filter(|_| self.base.is_some()) else {
            return self.image.next_absent(range, most).await;
        };
        let mut at = range.start;
        while let Some(absent) = self.image.next_absent(at..range.end, most).await? {
            let below = backing.map(absent.start, absent.end - absent.start).await;
            let below = below.map_err(Error::of_source)?;
            if below.depth < self.between {
                // Whole clusters, which are what is populated.
                let end = (absent.start + below.len).next_multiple_of(self.image.cluster_size());
                return Ok(Some(absent.start..end.min(absent.end)));
            }
            at = (absent.start + below.len).min(absent.end);
        }
        Ok(None)
    }
}
