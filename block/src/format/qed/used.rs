//! The clusters of a file that are referred to, in memory that grows with their number.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::{Error, ErrorKind, Result};

/// Words of one piece of memory, 4 KiB.
const WORDS: usize = 512;
/// Number of clusters that one piece knows.
const CHUNK: u64 = 64 * WORDS as u64;
/// The most pieces: 128 MiB, enough for 64 TiB in clusters of 64 KiB. References strewn over a huge hole
/// could otherwise take any amount.
const MOST_CHUNKS: usize = 32 << 10;

/// One bit for each cluster.
#[derive(Default)]
pub(super) struct Used {
    chunks: BTreeMap<u64, Box<[u64; WORDS]>>,
    count: u64,
    end: u64,
}

impl Used {
    /// Notes a reference to a cluster. Returns true if it is the first.
    pub(super) fn take(&mut self, cluster: u64) -> Result<bool> {
        let full = self.chunks.len() >= MOST_CHUNKS;
        let chunk = match self.chunks.entry(cluster / CHUNK) {
            std::collections::btree_map::Entry::Vacant(_) if full => {
                let text = "checking the image needs more than 128 MiB of memory";
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
            entry => entry.or_insert_with(|| Box::new([0; WORDS])),
        };
        let (word, bit) = (&mut chunk[(cluster % CHUNK / 64) as usize], 1 << (cluster % 64));
        let first = *word & bit == 0;
        *word |= bit;
        self.count += u64::from(first);
        self.end = self.end.max(cluster + 1);
        Ok(first)
    }

    /// The number of clusters that are referred to.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The cluster behind the last one that is referred to.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Returns the ranges before the end that nothing refers to, at most the first `most` of them.
    pub(super) fn gaps(&self, most: usize) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut start = 0;
        for (number, chunk) in &self.chunks {
            for (index, word) in chunk.iter().enumerate() {
                let mut bits = *word;
                while bits != 0 {
                    let at = number * CHUNK + index as u64 * 64 + u64::from(bits.trailing_zeros());
                    bits &= bits - 1;
                    if at > start {
                        gaps.push(start..at);
                        if gaps.len() == most {
                            return gaps;
                        }
                    }
                    start = at + 1;
                }
            }
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_was_not_taken() {
        let mut used = Used::default();
        for cluster in [0, 1, 5, 63, 64, CHUNK - 1, CHUNK, 3 * CHUNK + 7] {
            assert!(used.take(cluster).unwrap());
            assert!(!used.take(cluster).unwrap());
        }
        assert_eq!((used.count(), used.end()), (8, 3 * CHUNK + 8));
        let gaps = [2..5, 6..63, 65..CHUNK - 1, CHUNK + 1..3 * CHUNK + 7];
        assert_eq!(used.gaps(100), gaps);
        assert_eq!(used.gaps(2), gaps[..2]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut used = Used::default();
        let refused = (0..).map(|n| used.take(n * CHUNK)).position(|result| result.is_err());
        assert_eq!(refused, Some(MOST_CHUNKS));
    }
}
