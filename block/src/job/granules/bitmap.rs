//! A set of granules of a disk, with a summary level, so that the next one is found without a look at
//! all of them.

use std::ops::Range;

/// Bits in a word.
const BITS: u64 = 64;

/// A bit for each granule of a disk.
pub(in crate::job) struct Bitmap {
    /// Bytes that a bit stands for; a power of two.
    granule: u64,
    /// Number of granules.
    len: u64,
    words: Vec<u64>,
    /// A bit for each word that is not 0.
    summary: Vec<u64>,
    /// Number of bits that are set.
    set: u64,
}

impl Bitmap {
    /// Creates a bitmap for a disk of `size` bytes without a bit set. `granule` must be a power of two.
    pub(in crate::job) fn new(size: u64, granule: u64) -> Self {
        debug_assert!(granule.is_power_of_two());
        let len = size.div_ceil(granule);
        let words = len.div_ceil(BITS);
        Bitmap {
            granule,
            len,
            words: vec![0; words as usize],
            summary: vec![0; words.div_ceil(BITS) as usize],
            set: 0,
        }
    }

    /// Number of bits that are set.
    pub(in crate::job) fn count(&self) -> u64 {
        self.set
    }

    /// Takes all bits: returns a bitmap that has them, and leaves none set.
    pub(in crate::job) fn take(&mut self) -> Bitmap {
        let (words, summary) = (vec![0; self.words.len()], vec![0; self.summary.len()]);
        let empty = Bitmap { granule: self.granule, len: self.len, words, summary, set: 0 };
        std::mem::replace(self, empty)
    }

    /// Sets the bits that are set in `other`, which must be for the same disk with the same granule.
    pub(in crate::job) fn merge(&mut self, other: &Bitmap) {
        let mut at = 0;
        while let Some(range) = other.next(&(at..other.len * other.granule), u64::MAX) {
            self.insert(&range);
            at = range.end;
        }
    }

    /// The granules that a range of bytes touches.
    fn touched(&self, range: &Range<u64>) -> Range<u64> {
        if range.is_empty() {
            return 0..0;
        }
        let end = range.end.div_ceil(self.granule).min(self.len);
        (range.start / self.granule).min(end)..end
    }

    /// Returns true if the bit of the granule at this offset, in bytes, is set.
    pub(in crate::job) fn contains(&self, offset: u64) -> bool {
        let n = offset / self.granule;
        self.words.get((n / BITS) as usize).is_some_and(|word| word >> (n % BITS) & 1 == 1)
    }

    /// Sets the bits of all granules that a range of bytes touches.
    pub(in crate::job) fn insert(&mut self, range: &Range<u64>) {
        self.change(range, true);
    }

    /// Clears the bits of all granules that a range of bytes touches.
    pub(in crate::job) fn remove(&mut self, range: &Range<u64>) {
        self.change(range, false);
    }

    fn change(&mut self, range: &Range<u64>, set: bool) {
        let Range { mut start, end } = self.touched(range);
        while start < end {
            let (index, first) = ((start / BITS) as usize, start % BITS);
            let bits = (end - start).min(BITS - first);
            let mask = (u64::MAX >> (BITS - bits)) << first;
            let word = &mut self.words[index];
            let before = word.count_ones();
            if set {
                *word |= mask
            } else {
                *word &= !mask
            }
            self.set = self.set + u64::from(word.count_ones()) - u64::from(before);
            let (summary, bit) = (&mut self.summary[index / BITS as usize], 1 << (index as u64 % BITS));
            if *word == 0 {
                *summary &= !bit
            } else {
                *summary |= bit
            }
            start += bits;
        }
    }

    /// Returns the first run of granules that are set in a range of bytes: their bytes, at most `most`,
    /// or one granule if that is more.
    pub(in crate::job) fn next(&self, range: &Range<u64>, most: u64) -> Option<Range<u64>> {
        let within = self.touched(range);
        let first = self.first(within.start).filter(|first| *first < within.end)?;
        let most = (most / self.granule).max(1);
        let mut end = first + 1;
        while end < within.end && end - first < most && self.contains(end * self.granule) {
            end += 1;
        }
        Some(first * self.granule..end * self.granule)
    }

    /// The first granule from `from` on that is set.
    fn first(&self, from: u64) -> Option<u64> {
        let index = (from / BITS) as usize;
        let word = *self.words.get(index)? & (u64::MAX << (from % BITS));
        if word != 0 {
            return Some(index as u64 * BITS + u64::from(word.trailing_zeros()));
        }
        let next = index as u64 + 1;
        let mut at = (next / BITS) as usize;
        let mut summary = self.summary.get(at)? & (u64::MAX << (next % BITS));
        while summary == 0 {
            at += 1;
            summary = *self.summary.get(at)?;
        }
        let index = at as u64 * BITS + u64::from(summary.trailing_zeros());
        Some(index * BITS + u64::from(self.words[index as usize].trailing_zeros()))
    }
}

#[cfg(test)]
#[path = "bitmap_tests.rs"]
mod tests;
