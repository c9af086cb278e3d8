//! The clusters that were written since the last switch, as bits.

use std::ops::Range;

use super::MOST_CELLS;
use super::bits::Bits;

/// At most 128 KiB of bits. Each is for a cluster, or for more than one if the disk has more than
/// [`MOST_CELLS`].
#[derive(Default)]
pub(super) struct Written {
    /// The size of what a bit is for, in bytes; 0 before the first write.
    unit: u64,
    bits: Bits,
}

impl Written {
    /// Sets the bits of a range of a disk of `size` bytes with clusters of `cluster` bytes. Returns the
    /// range, widened to whole bits, if one of them was not set before.
    pub(super) fn set(&mut self, range: Range<u64>, size: u64, cluster: u64) -> Option<Range<u64>> {
        if self.unit == 0 {
            self.unit = cluster;
        }
        // The disk may have grown.
        let size = size.max(range.end);
        while size.div_ceil(self.unit) > MOST_CELLS {
            self.unit *= 2;
            self.bits.halve();
        }
        self.bits.grow(size.div_ceil(self.unit));
        let bits = range.start / self.unit..range.end.div_ceil(self.unit);
        let whole = bits.start * self.unit..bits.end.saturating_mul(self.unit);
        self.bits.set(bits).then_some(whole)
    }

    /// Clears every bit of a range, also those that it shares with others.
    pub(super) fn clear(&mut self, range: Range<u64>) {
        if self.unit == 0 {
            return;
        }
        self.bits.clear(range.start / self.unit..range.end.div_ceil(self.unit));
    }

    /// Returns true if `at` was written, and the number of bytes for which that holds, at most `len`.
    pub(super) fn run(&self, at: u64, len: u64) -> (bool, u64) {
        if self.unit == 0 {
            return (false, len);
        }
        let (is_set, end) = self.bits.run(at / self.unit, (at + len).div_ceil(self.unit));
        (is_set, end.saturating_mul(self.unit).min(at + len) - at)
    }
}
