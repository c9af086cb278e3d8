//! The qcow2 header and its extensions (QEMU `docs/interop/qcow2.txt`, "Header" and "Header extensions").

use crate::format::Backing;
use crate::{Error, ErrorKind, Result};

/// "QFI\xfb", the first four bytes of every qcow2 image.
pub(crate) const MAGIC: u32 = 0x5146_49fb;
/// Incompatible feature bits (bytes 72-79).
pub(crate) mod incompatible {
    pub(crate) const DIRTY: u64 = 1 << 0;
    pub(crate) const CORRUPT: u64 = 1 << 1;
    pub(crate) const EXTERNAL_DATA: u64 = 1 << 2;
    pub(crate) const COMPRESSION_TYPE: u64 = 1 << 3;
    pub(crate) const EXTENDED_L2: u64 = 1 << 4;
}
/// Compatible feature bits (bytes 80-87).
pub(crate) mod compatible {
    pub(crate) const LAZY_REFCOUNTS: u64 = 1 << 0;
}
/// Autoclear feature bits (bytes 88-95).
pub(crate) mod autoclear {
    pub(crate) const BITMAPS: u64 = 1 << 0;
}
/// Extension types.
const EXTENSION_END: u32 = 0;
pub(super) const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;
const EXTENSION_BITMAPS: u32 = 0x2385_2875;

/// From 512 bytes to 2 MiB.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// The longest name of a format that QEMU reads.
const MAX_FORMAT_NAME: usize = 15;
/// The longest backing file name that the specification allows.
const MAX_BACKING_NAME: u32 = 1023;
/// QEMU's limits on tables, which keep a hostile header from costing memory.
pub(super) const MAX_L1_BYTES: u64 = 32 << 20;
pub(crate) const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;

/// The length of the version 3 headers that Millrace writes, in bytes: up to the compression type, padded
/// to 8.
pub(crate) const HEADER_V3_LEN: u32 = 112;
const HEADER_V2_LEN: u32 = 72;

/// The fields of an image's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub version: u32,
    pub backing: Option<Backing>,
    pub cluster_bits: u32,
    /// Virtual size in bytes.
    pub size: u64,
    pub l1_entries: u32,
    pub l1_offset: u64,
    pub refcount_table_offset: u64,
    pub refcount_table_clusters: u32,
    pub snapshots: u32,
    pub snapshots_offset: u64,
    /// The directory of persistent bitmaps, if the image says that they are valid.
    pub bitmaps: Option<Bitmaps>,
    pub incompatible: u64,
    pub compatible: u64,
    pub autoclear: u64,
    pub refcount_order: u32,
    pub zstd: bool,
}

/// The place of the bitmap directory (section "Bitmaps extension").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bitmaps {
    pub count: u32,
    pub directory: u64,
    pub directory_len: u64,
}

pub(super) fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}

fn unsupported(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, what)
}

/// Reads big-endian fields of a byte string; a field past its end is an error, not a panic.
pub(super) struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    pub(super) fn u32(&self, at: usize) -> Result<u32> {
        let bytes = self.0.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map(u32::from_be_bytes).ok_or_else(|| corrupt("the header is cut off"))
    }

    pub(super) fn u64(&self, at: usize) -> Result<u64> {
        Ok(u64::from(self.u32(at)?) << 32 | u64::from(self.u32(at + 4)?))
    }
}

/// The cluster size in bytes of an image that begins with these bytes.
pub(super) fn cluster_size_in(bytes: &[u8]) -> Option<u64> {
    let bits = Fields(bytes).u32(20).ok()?;
    (Fields(bytes).u32(0).ok()? == MAGIC && CLUSTER_BITS.contains(&bits)).then(|| 1 << bits)
}

impl Header {
    /// Cluster size in bytes.
    pub(crate) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    pub(crate) fn extended_l2(&self) -> bool {
        self.incompatible & incompatible::EXTENDED_L2 != 0
    }

    /// Returns true if the refcounts in the file are stale.
    pub(crate) fn is_dirty(&self) -> bool {
        self.incompatible & incompatible::DIRTY != 0
    }

    /// Returns true if somebody found the metadata to be wrong.
    pub(crate) fn is_corrupt(&self) -> bool {
        self.incompatible & incompatible::CORRUPT != 0
    }

    /// Size of an L2 entry in bytes.
    pub(crate) fn l2_entry_size(&self) -> u64 {
        if self.extended_l2() { 16 } else { 8 }
    }

    /// The number of bytes of the disk that one L2 table maps.
    pub(crate) fn l2_coverage(&self) -> u64 {
        self.cluster_size() / self.l2_entry_size() * self.cluster_size()
    }

    /// Reads a header from the start of an image. `bytes` is the first cluster, or as much of it as there
    /// is; `file_len` is the length of the file in bytes.
    pub(crate) fn parse(bytes: &[u8], file_len: u64) -> Result<Header> {
        let field = Fields(bytes);
        if bytes.len() < 4 || field.u32(0)? != MAGIC {
            return Err(Error::new(ErrorKind::Invalid, "not a qcow2 image"));
        }
        let version = field.u32(4)?;
        if !(2..=3).contains(&version) {
            return Err(unsupported(format!("qcow2 version {version} is not supported")));
        }
        let v3 = version == 3;
        let cluster_bits = field.u32(20)?;
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(corrupt(format!("cluster_bits {cluster_bits} is not between 9 and 21")));
        }
        if field.u32(32)? != 0 {
            return Err(unsupported("the image is encrypted, which is not supported"));
        }
        let header_len = if v3 { field.u32(100)? } else { HEADER_V2_LEN };
        if header_len < if v3 { 104 } else { HEADER_V2_LEN } || u64::from(header_len) > 1 << cluster_bits {
            return Err(corrupt(format!("header length {header_len} is out of range")));
        }
        if !header_len.is_multiple_of(8) {
            return Err(corrupt(format!("header length {header_len} is not a multiple of 8")));
        }
        let incompatible = if v3 { field.u64(72)? } else { 0 };
        let extensions = extensions(bytes, header_len as usize, field.u64(8)?, 1 << cluster_bits)?;
        refuse_unknown(incompatible, &extensions)?;
        let refcount_order = if v3 { field.u32(96)? } else { 4 };
        if refcount_order > 6 {
            return Err(corrupt(format!("refcount_order {refcount_order} is over 6")));
        }
        let extended_l2 = incompatible & incompatible::EXTENDED_L2 != 0;
        // Subclusters are at least 512 bytes: 32 of them make 16 KiB (section "Extended L2 Entries").
        if extended_l2 && cluster_bits < 14 {
            return Err(corrupt("extended L2 entries need clusters of at least 16 KiB"));
        }
        let compression = match (incompatible & incompatible::COMPRESSION_TYPE != 0, header_len) {
            (true, 105..) => bytes.get(104).copied().unwrap_or(0),
            (true, _) => return Err(corrupt("the compression type is missing")),
            (false, _) => 0,
        };
        if compression > 1 {
            return Err(unsupported(format!("compression type {compression} is not supported")));
        }
        let header = Header {
            version,
            backing: backing(bytes, &field, &extensions, 1 << cluster_bits)?,
            cluster_bits,
            size: field.u64(24)?,
            l1_entries: field.u32(36)?,
            l1_offset: field.u64(40)?,
            refcount_table_offset: field.u64(48)?,
            refcount_table_clusters: field.u32(56)?,
            snapshots: field.u32(60)?,
            snapshots_offset: field.u64(64)?,
            bitmaps: bitmaps(if v3 { field.u64(88)? } else { 0 }, &extensions)?,
            incompatible,
            compatible: if v3 { field.u64(80)? } else { 0 },
            autoclear: if v3 { field.u64(88)? } else { 0 },
            refcount_order,
            zstd: compression == 1,
        };
        header.check_tables(file_len)?;
        Ok(header)
    }

    fn check_tables(&self, file_len: u64) -> Result<()> {
        let cluster = self.cluster_size();
        let l1_bytes = u64::from(self.l1_entries) * 8;
        if l1_bytes > MAX_L1_BYTES {
            return Err(corrupt("the L1 table is larger than 32 MiB"));
        }
        if self.size > i64::MAX as u64 {
            return Err(corrupt("the virtual size is over 8 EiB"));
        }
        if self.size.div_ceil(self.l2_coverage()) > u64::from(self.l1_entries) {
            return Err(corrupt("the L1 table is too small for the virtual size"));
        }
        let table_bytes = u64::from(self.refcount_table_clusters) * cluster;
        if table_bytes == 0 || table_bytes > MAX_REFCOUNT_TABLE_BYTES.max(cluster) {
            return Err(corrupt("the refcount table's size is out of range"));
        }
        for (what, offset, bytes) in [
            ("L1 table", self.l1_offset, l1_bytes),
            ("refcount table", self.refcount_table_offset, table_bytes),
        ] {
            let end = offset.checked_add(bytes);
            // A table may end inside of the file's last cluster, which may be incomplete.
            let room = file_len.next_multiple_of(cluster);
            if !offset.is_multiple_of(cluster)
                || (bytes > 0 && offset == 0)
                || end.is_none_or(|end| end > room)
            {
                return Err(corrupt(format!("the {what} lies outside of the file")));
            }
        }
        Ok(())
    }

    /// Encodes the header with its extensions and backing name, as the beginning of a new image. The table
    /// of feature names is left out if the first cluster has no room for it.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let whole = self.encode(true);
        if whole.len() as u64 <= self.cluster_size() { whole } else { self.encode(false) }
    }

    fn encode(&self, names: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        let v3 = self.version == 3;
        let u32 = |out: &mut Vec<u8>, v: u32| out.extend_from_slice(&v.to_be_bytes());
        let u64 = |out: &mut Vec<u8>, v: u64| out.extend_from_slice(&v.to_be_bytes());
        u32(&mut out, MAGIC);
        u32(&mut out, self.version);
        u64(&mut out, 0);
        u32(&mut out, 0);
        u32(&mut out, self.cluster_bits);
        u64(&mut out, self.size);
        u32(&mut out, 0);
        u32(&mut out, self.l1_entries);
        u64(&mut out, self.l1_offset);
        u64(&mut out, self.refcount_table_offset);
        u32(&mut out, self.refcount_table_clusters);
        u32(&mut out, self.snapshots);
        u64(&mut out, self.snapshots_offset);
        if v3 {
            u64(&mut out, self.incompatible);
            u64(&mut out, self.compatible);
            u64(&mut out, self.autoclear);
            u32(&mut out, self.refcount_order);
            u32(&mut out, HEADER_V3_LEN);
            out.push(u8::from(self.zstd));
            out.extend_from_slice(&[0; 7]);
        }
        let mut extension = |kind: u32, data: &[u8]| {
            u32(&mut out, kind);
            u32(&mut out, data.len() as u32);
            out.extend_from_slice(data);
            out.resize(out.len().next_multiple_of(8), 0);
        };
        if let Some(Backing { format: Some(format), .. }) = &self.backing {
            extension(EXTENSION_BACKING_FORMAT, format.as_bytes());
        }
        if v3 && names {
            extension(EXTENSION_FEATURE_NAMES, &feature_names());
        }
        extension(EXTENSION_END, &[]);
        if let Some(backing) = &self.backing {
            let (at, len) = (out.len() as u64, backing.name.len() as u32);
            out.extend_from_slice(backing.name.as_bytes());
            out[8..16].copy_from_slice(&at.to_be_bytes());
            out[16..20].copy_from_slice(&len.to_be_bytes());
        }
        out
    }
}

/// Returns the names of the features that we know, so that older programs can say which one they lack.
fn feature_names() -> Vec<u8> {
    let names = [
        (0, 0, "dirty bit"),
        (0, 1, "corrupt bit"),
        (0, 2, "external data file"),
        (0, 3, "compression type"),
        (0, 4, "extended L2 entries"),
        (1, 0, "lazy refcounts"),
        (2, 0, "bitmaps"),
        (2, 1, "raw external data"),
    ];
    let mut table = Vec::with_capacity(48 * names.len());
    for (kind, bit, name) in names {
        table.extend_from_slice(&[kind, bit]);
        table.extend_from_slice(name.as_bytes());
        table.resize(table.len().next_multiple_of(48), 0);
    }
    table
}

/// Returns the types and data of the header extensions that begin at `start`.
pub(super) fn extensions(
    bytes: &[u8],
    start: usize,
    backing_offset: u64,
    cluster: u64,
) -> Result<Vec<(u32, &[u8])>> {
    let end = if backing_offset == 0 { cluster } else { backing_offset.min(cluster) } as usize;
    let area = bytes.get(..end.min(bytes.len())).unwrap_or_default();
    let field = Fields(area);
    let mut found = Vec::new();
    let mut at = start;
    // A header may end at the cluster's end without an end marker.
    while at + 8 <= area.len() {
        let (kind, len) = (field.u32(at)?, field.u32(at + 4)? as usize);
        if kind == EXTENSION_END {
            break;
        }
        let data = area.get(at + 8..).and_then(|rest| rest.get(..len));
        let data = data.ok_or_else(|| corrupt(format!("header extension {kind:#x} is cut off")))?;
        found.push((kind, data));
        at = (at + 8 + len).next_multiple_of(8);
    }
    Ok(found)
}

fn refuse_unknown(features: u64, extensions: &[(u32, &[u8])]) -> Result<()> {
    use incompatible::{COMPRESSION_TYPE, CORRUPT, DIRTY, EXTENDED_L2, EXTERNAL_DATA};
    if features & EXTERNAL_DATA != 0 {
        return Err(unsupported("the image keeps its data in an external file, which is not supported"));
    }
    let unknown = features & !(DIRTY | CORRUPT | COMPRESSION_TYPE | EXTENDED_L2);
    if unknown == 0 {
        return Ok(());
    }
    let table = extensions.iter().find(|(kind, _)| *kind == EXTENSION_FEATURE_NAMES).map_or(&[][..], |e| e.1);
    let name = |bit: u32| {
        let entry = table.chunks_exact(48).find(|entry| entry[0] == 0 && u32::from(entry[1]) == bit);
        let name = entry.map(|e| String::from_utf8_lossy(&e[2..]).replace(char::is_control, ""));
        name.unwrap_or_else(|| format!("incompatible feature bit {bit}"))
    };
    let names: Vec<_> = (0..64).filter(|bit| unknown >> bit & 1 == 1).map(name).collect();
    Err(unsupported(format!("the image uses features that are not supported: {}", names.join(", "))))
}

fn bitmaps(autoclear: u64, extensions: &[(u32, &[u8])]) -> Result<Option<Bitmaps>> {
    let found = extensions.iter().find(|(kind, _)| *kind == EXTENSION_BITMAPS);
    // Without the bit, somebody wrote the image without updating the bitmaps, and their clusters are
    // leaked.
    let Some((_, data)) = found.filter(|_| autoclear & autoclear::BITMAPS != 0) else { return Ok(None) };
    let field = Fields(data);
    let (count, directory_len, directory) = (field.u32(0)?, field.u64(8)?, field.u64(16)?);
    Ok(Some(Bitmaps { count, directory, directory_len }))
}

fn backing(
    bytes: &[u8],
    field: &Fields<'_>,
    extensions: &[(u32, &[u8])],
    cluster: u64,
) -> Result<Option<Backing>> {
    let (offset, len) = (field.u64(8)?, field.u32(16)?);
    if offset == 0 || len == 0 {
        return Ok(None);
    }
    if len > MAX_BACKING_NAME || offset.checked_add(len.into()).is_none_or(|end| end > cluster) {
        return Err(corrupt("the backing file name lies outside of the first cluster"));
    }
    let name = bytes.get(offset as usize..offset as usize + len as usize);
    let name = name.ok_or_else(|| corrupt("the backing file name is cut off"))?;
    let text = |bytes: &[u8]| {
        let text = String::from_utf8(bytes.to_vec()).ok().filter(|text| !text.contains(char::is_control));
        text.ok_or_else(|| corrupt("the backing file's name or format is not text"))
    };
    let format = extensions.iter().find(|(kind, _)| *kind == EXTENSION_BACKING_FORMAT);
    if format.is_some_and(|(_, data)| data.len() > MAX_FORMAT_NAME) {
        return Err(corrupt("the backing file's format is too long"));
    }
    let format = format.map(|(_, data)| text(data)).transpose()?;
    Ok(Some(Backing { name: text(name)?, format }))
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
