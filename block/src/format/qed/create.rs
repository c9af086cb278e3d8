//! New QED images.

use super::header::{self, CLUSTER_SIZES, Header, LEN, MAX_BACKING_NAME};
use crate::storage::Storage;
use crate::{Buf, Error, ErrorKind, Kind, Result};

/// The options of a new image.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Size of the disk in bytes; rounded up to 512.
    pub size: u64,
    /// Allocation unit in bytes: a power of two from 4 KiB to 64 MiB.
    pub cluster_size: u64,
    /// Size of every table in clusters: a power of two from 1 to 16. QEMU up to 10.0 cannot open an image
    /// with 1.
    pub table_size: u64,
    /// The backing file's name as it will stand in the image. Of its format, only raw is recorded.
    pub backing: Option<(String, Kind)>,
}

impl Options {
    /// QEMU's default options, for a disk of `size` bytes.
    pub(crate) fn new(size: u64) -> Self {
        Options { size, cluster_size: 64 << 10, table_size: 4, backing: None }
    }
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, text)
}

/// A new image, laid out; nothing is written yet.
pub(crate) struct Plan {
    header: Header,
    backing: String,
}

/// Lays out a new image.
///
/// # Errors
/// `Invalid` if an option is out of range.
pub(crate) fn plan(options: &Options) -> Result<Plan> {
    let &Options { size, cluster_size, table_size, .. } = options;
    if !cluster_size.is_power_of_two() || !CLUSTER_SIZES.contains(&cluster_size) {
        return Err(invalid("cluster_size must be a power of two from 4K to 64M"));
    }
    if !table_size.is_power_of_two() || table_size > 16 {
        return Err(invalid("table_size must be a power of two from 1 to 16"));
    }
    let (name, features) = match &options.backing {
        None => ("", 0),
        Some((name, Kind::Raw)) => (name.as_str(), header::BACKING_FILE | header::NO_PROBE),
        Some((name, _)) => (name.as_str(), header::BACKING_FILE),
    };
    if options.backing.is_some() && (name.is_empty() || name.len() as u64 > MAX_BACKING_NAME) {
        return Err(invalid("a backing file name must have 1 to 1023 bytes"));
    }
    let header = Header {
        cluster_size,
        table_size,
        header_size: 1,
        features,
        autoclear: 0,
        l1_offset: cluster_size,
        size: size.checked_next_multiple_of(512).unwrap_or(u64::MAX),
        name_offset: if name.is_empty() { 0 } else { LEN as u64 },
        name_len: name.len() as u64,
    };
    if header.size > header.max_size() {
        return Err(invalid(format!(
            "tables of this size map {} bytes at most: a larger disk needs a larger cluster_size or table_size",
            header.max_size()
        )));
    }
    Ok(Plan { header, backing: name.to_owned() })
}

impl Plan {
    /// Writes the image to storage, and makes it durable.
    ///
    /// # Errors
    /// `Unsupported` for storage of a fixed length.
    pub(crate) async fn write(&self, storage: &dyn Storage) -> Result<()> {
        super::refuse_fixed(storage)?;
        // Everything but the header first: a file that is cut off here is no image.
        crate::format::blank(storage, self.header.l1().end).await?;
        storage.sync().await?;
        let mut bytes = self.header.to_bytes();
        bytes.extend_from_slice(self.backing.as_bytes());
        storage.write(0, Buf::from_bytes(&bytes)).await?;
        storage.sync().await?;
        storage.sync_name().await
    }
}
