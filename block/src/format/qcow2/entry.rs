//! L2 entries (QEMU `docs/interop/qcow2.txt`, "L1 table", "Standard/Extended L2 table entry").

use super::{COPIED, OFFSET_MASK};

/// Bit 62: a compressed cluster.
const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of a standard entry in version 3: the cluster reads as zeros.
const ZERO: u64 = 1;

/// An L2 entry of either layout. A standard entry is one with a single subcluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Entry {
    /// The host cluster, if it has one.
    pub host: Option<u64>,
    /// True if the host cluster's refcount is exactly 1.
    pub copied: bool,
    /// Bits 0-61 of the descriptor of a compressed cluster, which has no host cluster of its own.
    pub packed: Option<u64>,
    /// Subclusters with data in the host cluster, by bit.
    pub alloc: u32,
    /// Subclusters that read as zeros, by bit.
    pub zero: u32,
}

impl Entry {
    fn descriptor(word: u64) -> Entry {
        if word & COMPRESSED != 0 {
            return Entry { packed: Some(word & (COMPRESSED - 1)), ..Entry::default() };
        }
        let offset = word & OFFSET_MASK;
        Entry {
            host: Some(offset).filter(|offset| *offset != 0),
            copied: word & COPIED != 0,
            ..Entry::default()
        }
    }

    /// A standard entry. Version 2 has no zero flag: its bit is reserved.
    pub(crate) fn standard(word: u64, version: u32) -> Entry {
        let entry = Self::descriptor(word);
        let zero = version >= 3 && word & ZERO != 0 && entry.packed.is_none();
        Entry { zero: zero.into(), alloc: (!zero && entry.host.is_some()).into(), ..entry }
    }

    /// An extended entry.
    pub(crate) fn extended(word: u64, bitmap: u64) -> Entry {
        let entry = Self::descriptor(word);
        // A compressed cluster has no subclusters; its bitmap means nothing.
        let bitmap = if entry.packed.is_some() { 0 } else { bitmap };
        Entry { alloc: bitmap as u32, zero: (bitmap >> 32) as u32, ..entry }
    }

    /// Returns true if all its subclusters are of one kind. `all` has a bit for each of them.
    pub(crate) fn is_uniform(&self, all: u32) -> bool {
        self.packed.is_some() || self.alloc | self.zero == 0 || self.alloc == all || self.zero == all
    }

    pub(crate) fn to_standard(self) -> u64 {
        let copied = if self.copied { COPIED } else { 0 };
        self.host.unwrap_or(0) | copied | if self.zero != 0 { ZERO } else { 0 }
    }

    pub(crate) fn to_extended(self) -> (u64, u64) {
        let copied = if self.copied { COPIED } else { 0 };
        (self.host.unwrap_or(0) | copied, u64::from(self.zero) << 32 | u64::from(self.alloc))
    }
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
