//! QED as the rest of the block layer sees it.

use std::rc::Rc;

use async_trait::async_trait;

use super::create::{self, Options};
use super::{Clear, Qed, check, header};
use crate::Result;
use crate::format::create::key;
use crate::format::{
    Backing, Create, Format, Kind, Mapping, NewImage, Preallocation, Reading, Repair, Report, Reservation,
    Summary,
};
use crate::storage::Storage;
use crate::{Error, ErrorKind};

/// The format's line in the table.
pub(in crate::format) struct Driver;

#[async_trait(?Send)]
impl crate::format::Driver for Driver {
    fn name(&self) -> &'static str {
        "qed"
    }

    fn magic(&self) -> Option<[u8; 4]> {
        Some(header::MAGIC)
    }

    fn has_backing(&self) -> bool {
        true
    }

    fn records_only_raw(&self) -> bool {
        true
    }

    async fn open(&self, storage: Rc<dyn Storage>, writable: bool) -> Result<Rc<dyn Format>> {
        Ok(Qed::open(storage, writable).await?)
    }

    async fn summary(&self, storage: &dyn Storage) -> Result<Summary> {
        let (header, backing) = Qed::read_header(storage).await?;
        Ok(Summary {
            cluster_size: Some(header.cluster_size),
            backing,
            dirty: header.features & header::NEED_CHECK != 0,
            ..Summary::new(header.size)
        })
    }

    fn create_options(&self) -> &'static [(&'static str, &'static str)] {
        &[
            key::BACKING_FILE,
            key::BACKING_FORMAT,
            key::CLUSTER_SIZE,
            ("preallocation", "off"),
            key::SIZE,
            ("table_size", "size of a table in clusters: 1, 2, 4, 8 or 16"),
        ]
    }

    fn plan(&self, options: &Create, size: u64) -> Result<Box<dyn NewImage>> {
        if options.preallocation != Preallocation::Off {
            return Err(Error::new(ErrorKind::Invalid, "QED has no preallocation"));
        }
        let mut plan = Options::new(size);
        plan.backing = options.backing.clone();
        plan.cluster_size = options.cluster_size.unwrap_or(plan.cluster_size);
        plan.table_size = options.table_size.unwrap_or(plan.table_size);
        Ok(Box::new(create::plan(&plan)?))
    }

    async fn check(&self, storage: &Rc<dyn Storage>, repair: Option<Repair>) -> Result<Report> {
        check::check(&**storage, repair).await
    }
}

#[async_trait(?Send)]
impl NewImage for create::Plan {
    async fn write(&self, storage: &dyn Storage) -> Result<()> {
        create::Plan::write(self, storage).await
    }
}

#[async_trait(?Send)]
impl Format for Qed {
    fn kind(&self) -> Kind {
        Kind::Qed
    }

    fn backing(&self) -> Option<Backing> {
        Qed::backing(self)
    }

    fn reading(&self) -> Option<Reading> {
        Some(Qed::reading(self))
    }

    fn size(&self) -> u64 {
        Qed::size(self)
    }

    fn cluster_size(&self) -> u64 {
        Qed::cluster_size(self)
    }

    async fn map(&self, offset: u64, len: u64) -> Result<Mapping> {
        Qed::map(self, offset, len).await
    }

    async fn reserve(&self, offset: u64, len: u64) -> Result<Reservation> {
        Qed::reserve(self, offset, len).await
    }

    async fn commit(&self, reservation: Reservation) -> Result<()> {
        Qed::commit(self, reservation).await
    }

    async fn zero(&self, offset: u64, len: u64, unmap: bool) -> Result<()> {
        let how = if unmap { Clear::Punch } else { Clear::Zero };
        Qed::zero(self, offset, len, how).await
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        Qed::zero(self, offset, len, Clear::Unmap).await
    }

    fn keeps_space(&self) -> bool {
        true
    }

    async fn make_room(&self, size: u64) -> Result<()> {
        Qed::make_room(self, size)
    }

    async fn set_size(&self, size: u64) -> Result<()> {
        Qed::set_size(self, size).await
    }

    async fn flush(&self) -> Result<()> {
        Qed::flush(self).await
    }

    async fn drop_backing(&self) -> Result<()> {
        Qed::drop_backing(self).await
    }

    async fn has_room_for(&self, backing: &Backing) -> Result<()> {
        Qed::check_backing(self, backing).await
    }

    async fn set_backing(&self, backing: Backing) -> Result<()> {
        Qed::set_backing(self, backing).await
    }

    fn given_back(&self) -> u64 {
        Qed::given_back(self)
    }

    async fn reclaim(&self, before: u64) -> bool {
        Qed::reclaim(self, before).await
    }

    async fn close(&self) -> Result<()> {
        Qed::close(self).await
    }
}
