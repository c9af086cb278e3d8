//! qcow2 as the rest of the block layer sees it.

use std::rc::Rc;

use async_trait::async_trait;

use super::create::{self, Options};
use super::{Qcow2, check, header};
use crate::format::create::key;
use crate::format::{
    Backing, Compressed, Create, Format, Kind, Mapping, NewImage, Reading, Repair, Report, Reservation,
    Summary,
};
use crate::storage::Storage;
use crate::{Buf, Result};

/// The format's line in the table.
pub(in crate::format) struct Driver;

#[async_trait(?Send)]
impl crate::format::Driver for Driver {
    fn name(&self) -> &'static str {
        "qcow2"
    }

    fn magic(&self) -> Option<[u8; 4]> {
        Some(header::MAGIC.to_be_bytes())
    }

    fn has_backing(&self) -> bool {
        true
    }

    async fn open(&self, storage: Rc<dyn Storage>, writable: bool) -> Result<Rc<dyn Format>> {
        Ok(Qcow2::open(storage, writable).await?)
    }

    async fn summary(&self, storage: &dyn Storage) -> Result<Summary> {
        let header = Qcow2::read_header(storage).await?;
        Ok(Summary {
            cluster_size: Some(header.cluster_size()),
            extended_l2: Some(header.extended_l2()),
            backing: header.backing.clone(),
            dirty: header.is_dirty(),
            ..Summary { qcow2: Some(header.clone()), ..Summary::new(header.size) }
        })
    }

    fn create_options(&self) -> &'static [(&'static str, &'static str)] {
        &[
            key::BACKING_FILE,
            key::BACKING_FORMAT,
            key::CLUSTER_SIZE,
            ("compat", "1.1, or 0.10 for readers older than QEMU 1.1"),
            ("compression_type", "compression of clusters: zlib or zstd"),
            ("extended_l2", "on or off: allocate each cluster in 32 subclusters"),
            ("lazy_refcounts", "on or off: let other programs delay updates of reference counts"),
            ("preallocation", "off, metadata, falloc or full"),
            ("refcount_bits", "width of reference counts in bits: 1, 2, 4, 8, 16, 32 or 64"),
            key::SIZE,
        ]
    }

    fn plan(&self, options: &Create, size: u64) -> Result<Box<dyn NewImage>> {
        let mut plan = Options::new(size);
        plan.backing = options.backing.clone().map(|(name, format)| (name, format.name().to_owned()));
        plan.cluster_size = options.cluster_size.unwrap_or(plan.cluster_size);
        plan.version = options.version.unwrap_or(plan.version);
        plan.lazy_refcounts = options.lazy_refcounts.unwrap_or(false);
        plan.zstd = options.zstd.unwrap_or(false);
        plan.preallocation = options.preallocation;
        // Subclusters need clusters of at least 16 KiB: a smaller cluster size turns them off by
        // default.
        let subclusters = plan.cluster_size >= 16 << 10 && plan.version > 2;
        plan.extended_l2 = options.extended_l2.unwrap_or(subclusters);
        plan.refcount_bits = options.refcount_bits.unwrap_or(plan.refcount_bits);
        Ok(Box::new(create::plan(&plan)?))
    }

    async fn check(&self, storage: &Rc<dyn Storage>, repair: Option<Repair>) -> Result<Report> {
        check::check(storage, repair).await
    }
}

#[async_trait(?Send)]
impl NewImage for create::Plan {
    async fn write(&self, storage: &dyn Storage) -> Result<()> {
        create::Plan::write(self, storage).await
    }
}

#[async_trait(?Send)]
impl Format for Qcow2 {
    fn kind(&self) -> Kind {
        Kind::Qcow2
    }

    fn backing(&self) -> Option<Backing> {
        Qcow2::backing(self)
    }

    fn reading(&self) -> Option<Reading> {
        Some(Qcow2::reading(self))
    }

    fn size(&self) -> u64 {
        Qcow2::size(self)
    }

    fn cluster_size(&self) -> u64 {
        Qcow2::cluster_size(self)
    }

    async fn map(&self, offset: u64, len: u64) -> Result<Mapping> {
        Qcow2::map(self, offset, len).await
    }

    async fn read_compressed(&self, cluster: Compressed, within: u64, part: Buf) -> Result<()> {
        Qcow2::read_compressed(self, cluster, within, part).await
    }

    async fn has_unwritten(&self) -> Result<bool> {
        Qcow2::has_unwritten(self).await
    }

    async fn kept_space(&self, offset: u64, len: u64) -> Result<(Option<u64>, u64)> {
        self.reserved_host(offset, len).await
    }

    async fn reserve(&self, offset: u64, len: u64) -> Result<Reservation> {
        Qcow2::reserve(self, offset, len).await
    }

    async fn commit(&self, reservation: Reservation) -> Result<()> {
        Qcow2::commit(self, reservation).await
    }

    async fn zero(&self, offset: u64, len: u64, unmap: bool) -> Result<()> {
        Qcow2::zero(self, offset, len, unmap).await
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        Qcow2::zero(self, offset, len, true).await
    }

    fn zero_unit(&self) -> u64 {
        self.subcluster_size()
    }

    async fn make_room(&self, size: u64) -> Result<()> {
        Qcow2::make_room(self, size).await
    }

    async fn set_size(&self, size: u64) -> Result<()> {
        Qcow2::set_size(self, size).await
    }

    async fn flush(&self) -> Result<()> {
        Qcow2::flush(self).await
    }

    async fn drop_backing(&self) -> Result<()> {
        Qcow2::drop_backing(self).await
    }

    async fn has_room_for(&self, backing: &Backing) -> Result<()> {
        Qcow2::check_backing(self, backing).await
    }

    async fn set_backing(&self, backing: Backing) -> Result<()> {
        Qcow2::set_backing(self, backing).await
    }

    fn given_back(&self) -> u64 {
        Qcow2::given_back(self)
    }

    async fn reclaim(&self, before: u64) -> bool {
        Qcow2::reclaim(self, before).await
    }

    async fn close(&self) -> Result<()> {
        Qcow2::close(self).await
    }

    #[cfg(test)]
    fn memory(&self) -> u64 {
        Qcow2::memory(self)
    }
}
