//! The QED header (QEMU `docs/interop/qed_spec.txt`, "Header").

use std::ops::Range;

use crate::{Error, ErrorKind, Result};

/// The first four bytes of every QED image.
pub(crate) const MAGIC: [u8; 4] = *b"QED\0";
/// The header's length in bytes.
pub(crate) const LEN: usize = 64;
/// Feature bits: the image uses a backing file.
pub(crate) const BACKING_FILE: u64 = 1 << 0;
/// The image needs a consistency check before it is written.
pub(crate) const NEED_CHECK: u64 = 1 << 1;
/// The backing file is raw, whatever it looks like.
pub(crate) const NO_PROBE: u64 = 1 << 2;

/// The places of the fields that change.
const FEATURES: Range<usize> = 16..24;
pub(super) const AUTOCLEAR: Range<usize> = 32..40;
pub(super) const SIZE: Range<usize> = 48..56;
pub(super) const BACKING_NAME: Range<usize> = 56..64;

/// The range of cluster sizes, in bytes.
pub(super) const CLUSTER_SIZES: std::ops::RangeInclusive<u64> = 4 << 10..=64 << 20;
/// The longest backing file name that QEMU reads.
pub(super) const MAX_BACKING_NAME: u64 = 1023;

/// The fields of an image's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// In bytes.
    pub cluster_size: u64,
    /// Size of every table in clusters.
    pub table_size: u64,
    /// Size of the header and of what is stored with it, in clusters.
    pub header_size: u64,
    pub features: u64,
    pub autoclear: u64,
    pub l1_offset: u64,
    /// Virtual size in bytes.
    pub size: u64,
    /// The offset and the length of the backing file's name, in bytes; used if BACKING_FILE is set.
    pub name_offset: u64,
    pub name_len: u64,
}

pub(super) fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}

/// Sets and clears feature bits in the header's first sector.
pub(super) fn change_features(sector: &mut [u8], set: u64, clear: u64) {
    let features = &mut sector[FEATURES];
    for (byte, (set, clear)) in
        features.iter_mut().zip(set.to_le_bytes().into_iter().zip(clear.to_le_bytes()))
    {
        *byte = (*byte | set) & !clear;
    }
}

impl Header {
    /// Number of entries of a table.
    pub(crate) fn entries(&self) -> u64 {
        self.table_len() / 8
    }

    /// Size of a table in bytes.
    pub(crate) fn table_len(&self) -> u64 {
        self.table_size * self.cluster_size
    }

    /// The number of bytes of the disk that one L2 table maps.
    pub(crate) fn l2_coverage(&self) -> u64 {
        self.entries() * self.cluster_size
    }

    /// The size of the largest disk that the tables can map, in bytes.
    pub(crate) fn max_size(&self) -> u64 {
        self.l2_coverage().saturating_mul(self.entries()).min(i64::MAX as u64)
    }

    /// The length of the header in bytes; clusters begin behind it.
    pub(crate) fn header_len(&self) -> u64 {
        self.header_size * self.cluster_size
    }

    /// The place of the L1 table.
    pub(crate) fn l1(&self) -> Range<u64> {
        self.l1_offset..self.l1_offset + self.table_len()
    }

    /// Returns true if `len` bytes at `offset` can be clusters or a table: aligned, behind the header, and
    /// not in the L1 table.
    pub(super) fn is_place(&self, offset: u64, len: u64) -> bool {
        let l1 = self.l1();
        offset.is_multiple_of(self.cluster_size)
            && offset >= self.header_len()
            && offset.checked_add(len).is_some_and(|end| end <= l1.start || offset >= l1.end)
    }

    /// Reads a header from the first [`LEN`] bytes of a file of `file_len` bytes.
    pub(crate) fn parse(bytes: &[u8], file_len: u64) -> Result<Header> {
        if !bytes.starts_with(&MAGIC) {
            return Err(Error::new(ErrorKind::Invalid, "not a QED image"));
        }
        let bytes: &[u8; LEN] = bytes.first_chunk().ok_or_else(|| corrupt("the header is cut off"))?;
        let field = |at: usize, len: usize| {
            bytes[at..at + len].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
        };
        let header = Header {
            cluster_size: field(4, 4),
            table_size: field(8, 4),
            header_size: field(12, 4),
            features: field(16, 8),
            autoclear: field(32, 8),
            l1_offset: field(40, 8),
            size: field(48, 8),
            name_offset: field(56, 4),
            name_len: field(60, 4),
        };
        header.check(file_len)?;
        Ok(header)
    }

    fn check(&self, file_len: u64) -> Result<()> {
        let unknown = self.features & !(BACKING_FILE | NEED_CHECK | NO_PROBE);
        if unknown != 0 {
            let bits: Vec<_> =
                (0..64).filter(|bit| unknown >> bit & 1 == 1).map(|bit| bit.to_string()).collect();
            let text =
                format!("the image uses features that are not supported: feature bit {}", bits.join(", "));
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        if !self.cluster_size.is_power_of_two() || !CLUSTER_SIZES.contains(&self.cluster_size) {
            return Err(corrupt(format!(
                "cluster size {} is not a power of two from 4K to 64M",
                self.cluster_size
            )));
        }
        if !self.table_size.is_power_of_two() || self.table_size > 16 {
            return Err(corrupt(format!("table size {} is not a power of two up to 16", self.table_size)));
        }
        // A file may end inside of its last cluster, which may be incomplete.
        let end = file_len.checked_next_multiple_of(self.cluster_size).unwrap_or(u64::MAX);
        if self.header_size == 0 || self.header_len() > end {
            return Err(corrupt(format!("header size {} is out of range", self.header_size)));
        }
        let l1_end = self.l1_offset.checked_add(self.table_len());
        if !self.l1_offset.is_multiple_of(self.cluster_size)
            || self.l1_offset < self.header_len()
            || l1_end.is_none_or(|l1_end| l1_end > end)
        {
            return Err(corrupt("the L1 table lies outside of the file"));
        }
        if !self.size.is_multiple_of(512) || self.size > self.max_size() {
            return Err(corrupt(format!("image size {} is out of range", self.size)));
        }
        Ok(())
    }

    /// The place of the backing file's name in the file.
    pub(super) fn backing_name(&self) -> Result<Option<Range<u64>>> {
        if self.features & BACKING_FILE == 0 || self.name_len == 0 {
            return Ok(None);
        }
        let place = self.name_offset..self.name_offset + self.name_len;
        if self.name_len > MAX_BACKING_NAME || place.end > self.header_len() {
            return Err(corrupt("the backing file name lies outside of the header"));
        }
        Ok(Some(place))
    }

    /// Encodes the header, as the beginning of a new image.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LEN);
        out.extend_from_slice(&MAGIC);
        for half in [self.cluster_size, self.table_size, self.header_size] {
            out.extend_from_slice(&(half as u32).to_le_bytes());
        }
        for word in [self.features, 0, self.autoclear, self.l1_offset, self.size] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for half in [self.name_offset, self.name_len] {
            out.extend_from_slice(&(half as u32).to_le_bytes());
        }
        out
    }
}
