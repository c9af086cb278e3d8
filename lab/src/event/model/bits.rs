//! A bit for each granule.

/// A bit for each granule, and the number of those that are set.
#[derive(Clone, Default)]
pub(super) struct Bits {
    words: Vec<u64>,
    pub(super) count: u64,
}

impl Bits {
    /// Creates bits, of which the first `set` are set.
    pub(super) fn new(count: u64, set: u64) -> Bits {
        let mut bits = Bits { words: vec![0; count.div_ceil(64) as usize], count: 0 };
        (0..set).for_each(|granule| bits.set(granule, true));
        bits
    }

    /// Returns true if the bit of a granule is set.
    pub(super) fn has(&self, granule: u64) -> bool {
        self.words[granule as usize / 64] >> (granule % 64) & 1 == 1
    }

    /// Sets or clears the bit of a granule.
    pub(super) fn set(&mut self, granule: u64, on: bool) {
        if self.has(granule) != on {
            self.words[granule as usize / 64] ^= 1 << (granule % 64);
            self.count = if on { self.count + 1 } else { self.count - 1 };
        }
    }

    /// Returns the first granule from this one on whose bit is set.
    pub(super) fn next(&self, from: u64) -> Option<u64> {
        let mut index = from as usize / 64;
        let mut word = self.words.get(index)? & (u64::MAX << (from % 64));
        while word == 0 {
            index += 1;
            word = *self.words.get(index)?;
        }
        Some(index as u64 * 64 + u64::from(word.trailing_zeros()))
    }
}
