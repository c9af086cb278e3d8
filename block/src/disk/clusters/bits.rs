//! Sets of numbers as bits, worked on a word at a time.

use std::ops::Range;

const WORD: u64 = u64::BITS as u64;

#[derive(Default)]
pub(super) struct Bits(Vec<u64>);

/// The words of a range of bits: the index of each, and the bits in it.
fn words(range: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    let mut bit = range.start;
    std::iter::from_fn(move || {
        (bit < range.end).then(|| {
            let n = (WORD - bit % WORD).min(range.end - bit);
            let word = ((bit / WORD) as usize, (u64::MAX >> (WORD - n)) << (bit % WORD));
            bit += n;
            word
        })
    })
}

impl Bits {
    /// Makes room for `len` bits, and keeps those that there are.
    pub(super) fn grow(&mut self, len: u64) {
        let words = len.div_ceil(WORD) as usize;
        if self.0.len() < words {
            self.0.resize(words, 0);
        }
    }

    /// Sets a range, for which there must be room. Returns true if a bit of it was not set.
    pub(super) fn set(&mut self, range: Range<u64>) -> bool {
        let mut is_new = false;
        for (index, mask) in words(range) {
            if let Some(word) = self.0.get_mut(index) {
                is_new |= *word & mask != mask;
                *word |= mask;
            }
        }
        is_new
    }

    /// Clears a range.
    pub(super) fn clear(&mut self, range: Range<u64>) {
        for (index, mask) in words(range.start..range.end.min(self.0.len() as u64 * WORD)) {
            if let Some(word) = self.0.get_mut(index) {
                *word &= !mask;
            }
        }
    }

    /// Returns the value of a bit, and the end of the range of bits like it, which is at most `end`.
    pub(super) fn run(&self, bit: u64, end: u64) -> (bool, u64) {
        let word = |index: usize| self.0.get(index).copied().unwrap_or(0);
        let is_set = word((bit / WORD) as usize) >> (bit % WORD) & 1 == 1;
        for (index, mask) in words(bit..end) {
            let others = if is_set { !word(index) } else { word(index) } & mask;
            if others != 0 {
                return (is_set, index as u64 * WORD + u64::from(others.trailing_zeros()));
            }
        }
        (is_set, end)
    }

    /// Joins neighbours: a bit is set if one of two was.
    pub(super) fn halve(&mut self) {
        let old = std::mem::take(&mut self.0);
        let half = |word: u64| {
            (0..WORD / 2).filter(|bit| word >> (2 * bit) & 3 != 0).fold(0, |half, bit| half | 1 << bit)
        };
        self.0 = old
            .chunks(2)
            .map(|pair| half(pair[0]) | pair.get(1).map_or(0, |word| half(*word) << (WORD / 2)))
            .collect();
    }
}

#[cfg(test)]
#[path = "bits_tests.rs"]
mod tests;
