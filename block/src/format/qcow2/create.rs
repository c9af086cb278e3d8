//! New qcow2 images.

use super::header::{Header, MAX_REFCOUNT_TABLE_BYTES, compatible, incompatible};
use super::preallocate::Layout;
use crate::format::{Backing, Preallocation};
use crate::storage::Storage;
use crate::{Buf, Error, ErrorKind, Result};

/// The options of a new image.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Size of the disk in bytes; rounded up to 512.
    pub size: u64,
    /// Allocation unit in bytes: a power of two from 512 to 2 MiB.
    pub cluster_size: u64,
    /// Presence by 32nds of a cluster, so that a small write copies nothing. Reading the image takes QEMU
    /// 5.2, and clusters need at least 16 KiB.
    pub extended_l2: bool,
    /// Width of a refcount in bits: a power of two from 1 to 64.
    pub refcount_bits: u32,
    /// The version of the format: 3, or 2 for readers older than QEMU 1.1.
    pub version: u32,
    /// Allows others to leave refcounts stale while they have the image open. Millrace never does.
    pub lazy_refcounts: bool,
    /// True if compressed clusters are compressed by zstd, false for zlib. Millrace writes no compressed
    /// clusters.
    pub zstd: bool,
    /// The clusters that exist from the start.
    pub preallocation: Preallocation,
    /// The backing file's name as it will stand in the image, and its format.
    pub backing: Option<(String, String)>,
}

impl Options {
    /// The default options, for a disk of `size` bytes.
    pub(crate) fn new(size: u64) -> Self {
        Options {
            size,
            cluster_size: 64 << 10,
            extended_l2: true,
            refcount_bits: 16,
            version: 3,
            lazy_refcounts: false,
            zstd: false,
            preallocation: Preallocation::Off,
            backing: None,
        }
    }
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, text)
}

/// A new image, laid out; nothing is written yet.
pub(crate) struct Plan {
    header: Header,
    /// The header with its extensions and the backing file's name.
    bytes: Vec<u8>,
    /// Number of clusters in use, counted from the start of the file.
    used: u64,
    blocks: u64,
    ahead: Layout,
    preallocation: Preallocation,
}

/// Lays out a new image.
///
/// # Errors
/// `Invalid` if an option is out of range, or contradicts another.
pub(crate) fn plan(options: &Options) -> Result<Plan> {
    let cluster = options.cluster_size;
    if !cluster.is_power_of_two() || !(512..=2 << 20).contains(&cluster) {
        return Err(invalid("cluster_size must be a power of two from 512 to 2M"));
    }
    if options.extended_l2 && cluster < 16 << 10 {
        return Err(invalid("extended_l2 needs a cluster_size of at least 16K"));
    }
    if !options.refcount_bits.is_power_of_two() || options.refcount_bits > 64 {
        return Err(invalid("refcount_bits must be a power of two from 1 to 64"));
    }
    let newer = options.extended_l2 || options.lazy_refcounts || options.refcount_bits != 16 || options.zstd;
    if options.version == 2 && newer {
        let text = "compat=0.10 has no extended_l2, no lazy_refcounts, only compression_type=zlib and only \
                    refcount_bits=16";
        return Err(invalid(text));
    }
    let preallocated = options.preallocation != Preallocation::Off;
    if preallocated && options.backing.is_some() && !options.extended_l2 {
        return Err(invalid("preallocation with a backing file needs extended_l2=on"));
    }
    let size = options.size.checked_next_multiple_of(512).filter(|size| *size <= i64::MAX as u64);
    let size = size.ok_or_else(|| invalid("the size is over 8 EiB"))?;
    let backing = options.backing.as_ref();
    if backing.is_some_and(|(name, _)| name.is_empty() || name.len() > 1023) {
        return Err(invalid("a backing file name must have 1 to 1023 bytes"));
    }

    let mut header = Header {
        version: options.version,
        backing: backing.map(|(name, format)| Backing { name: name.clone(), format: Some(format.clone()) }),
        cluster_bits: cluster.trailing_zeros(),
        size,
        l1_entries: 0,
        l1_offset: 0,
        refcount_table_offset: 0,
        refcount_table_clusters: 0,
        snapshots: 0,
        snapshots_offset: 0,
        bitmaps: None,
        incompatible: if options.extended_l2 { incompatible::EXTENDED_L2 } else { 0 }
            | if options.zstd { incompatible::COMPRESSION_TYPE } else { 0 },
        compatible: if options.lazy_refcounts { compatible::LAZY_REFCOUNTS } else { 0 },
        autoclear: 0,
        refcount_order: options.refcount_bits.trailing_zeros(),
        zstd: options.zstd,
    };
    let l1_bytes = size.div_ceil(header.l2_coverage()) * 8;
    if l1_bytes > 32 << 20 {
        return Err(invalid(format!(
            "the L1 table would be larger than 32 MiB: a disk of {size} bytes needs a larger cluster_size"
        )));
    }
    let l1_clusters = l1_bytes.div_ceil(cluster).max(1);

    // The order in the file is: header, L1 table, refcount table, refcount blocks, preallocated clusters.
    // There are as many blocks as it takes to count all of these, the blocks included.
    let per_block = cluster * 8 / u64::from(options.refcount_bits);
    let ahead = if preallocated { Layout::new(&header) } else { Layout::default() };
    let (mut blocks, mut tables) = (1, 1);
    let used = loop {
        let used = 1 + l1_clusters + tables + blocks + ahead.tables + ahead.clusters;
        let (want_blocks, want_tables) = (used.div_ceil(per_block), (blocks * 8).div_ceil(cluster));
        if want_blocks <= blocks && want_tables <= tables {
            break used;
        }
        (blocks, tables) = (blocks.max(want_blocks), tables.max(want_tables));
    };
    if tables * cluster > MAX_REFCOUNT_TABLE_BYTES.max(cluster) {
        return Err(invalid("preallocating this much needs a larger cluster_size"));
    }
    header.l1_entries = (l1_bytes / 8) as u32;
    header.l1_offset = cluster;
    header.refcount_table_offset = (1 + l1_clusters) * cluster;
    header.refcount_table_clusters = tables as u32;

    let bytes = header.to_bytes();
    if bytes.len() as u64 > cluster {
        return Err(invalid("the backing file name does not fit into the first cluster"));
    }
    Ok(Plan { header, bytes, used, blocks, ahead, preallocation: options.preallocation })
}

impl Plan {
    /// Writes the image to storage, and makes it durable.
    pub(crate) async fn write(&self, storage: &dyn Storage) -> Result<()> {
        let Plan { header, bytes, used, blocks, ahead, preallocation } = self;
        let cluster = header.cluster_size();
        let per_block = (cluster * 8) >> header.refcount_order;
        let tables = u64::from(header.refcount_table_clusters);
        let blocks_offset = header.refcount_table_offset + tables * cluster;
        // Everything but the header first: a file that is cut off here is no image.
        crate::format::blank(storage, used * cluster).await?;
        let table: Vec<u8> = (0..*blocks).flat_map(|n| (blocks_offset + n * cluster).to_be_bytes()).collect();
        storage.write(header.refcount_table_offset, Buf::from_bytes(&table)).await?;
        for block in 0..*blocks {
            let mut bytes = vec![0; cluster as usize];
            let count = used.saturating_sub(block * per_block).min(per_block);
            for index in 0..count {
                super::refcounts::set(&mut bytes, header.refcount_order, index, 1);
            }
            storage.write(blocks_offset + block * cluster, Buf::from_bytes(&bytes)).await?;
        }
        if *preallocation != Preallocation::Off {
            ahead.write(storage, header, blocks_offset + blocks * cluster, *preallocation).await?;
        }
        storage.sync().await?;
        storage.write(0, Buf::from_bytes(bytes)).await?;
        storage.sync().await?;
        storage.sync_name().await
    }
}
