//! Filters: what sees the requests of a disk on their way to its leaf, and may do them in its own way.
//!
//! A request passes the filters in their order; the last one passes it to the leaf. A disk without
//! filters pays one branch a request.

use std::rc::Rc;

use async_trait::async_trait;

use super::{Disk, Ticket};
use crate::image::node::Node;
use crate::{Buf, Result};

/// Each method does one request. Unless a filter has its own, the request goes on below as it is.
#[async_trait(?Send)]
pub(crate) trait Filter {
    /// Reads the whole of `buf`.
    async fn read(&self, below: Below<'_>, offset: u64, buf: Buf) -> Result<()> {
        below.read(offset, buf).await
    }

    /// Writes the whole of `buf`.
    async fn write(&self, below: Below<'_>, offset: u64, buf: Buf) -> Result<()> {
        below.write(offset, buf).await
    }

    /// Makes a range read as zeros. With `unmap`, its space is given back if possible.
    async fn write_zeroes(&self, below: Below<'_>, offset: u64, len: u64, unmap: bool) -> Result<()> {
        below.write_zeroes(offset, len, unmap).await
    }

    /// Says that the content of a range is not needed any more.
    async fn discard(&self, below: Below<'_>, offset: u64, len: u64) -> Result<()> {
        below.discard(offset, len).await
    }

    /// Makes durable what was answered before.
    async fn flush(&self, below: Below<'_>) -> Result<()> {
        below.flush().await
    }
}

/// The filters of a disk, the first to see a request first. They do not change: a request keeps those that it
/// began with.
pub(super) type Filters = Rc<[Rc<dyn Filter>]>;

/// The rest of the way below a filter: further filters, then the leaf.
#[derive(Clone)]
pub(crate) struct Below<'a> {
    /// The request's ticket.
    pub ticket: &'a Ticket,
    /// The image that the request is for.
    pub leaf: &'a Rc<Node>,
    filters: &'a [Rc<dyn Filter>],
}

impl<'a> Below<'a> {
    pub(super) fn of(ticket: &'a Ticket, leaf: &'a Rc<Node>, filters: &'a Option<Filters>) -> Self {
        Below { ticket, leaf, filters: filters.as_deref().unwrap_or_default() }
    }

    /// The next filter, and what is below that.
    fn next(&self) -> Option<(&'a Rc<dyn Filter>, Below<'a>)> {
        let (first, rest) = self.filters.split_first()?;
        Some((first, Below { ticket: self.ticket, leaf: self.leaf, filters: rest }))
    }

    /// The way of a request that begins now: another than this one's if the leaf or the filters have changed.
    pub(crate) fn anew(&self) -> Anew<'a> {
        let (leaf, filters) = self.ticket.disk.way();
        Anew { ticket: self.ticket, leaf, filters }
    }

    /// Reads the whole of `buf`.
    pub(crate) async fn read(&self, offset: u64, buf: Buf) -> Result<()> {
        match self.next() {
            None => self.leaf.read(offset, buf).await,
            Some((filter, below)) => filter.read(below, offset, buf).await,
        }
    }

    /// Writes the whole of `buf`.
    pub(crate) async fn write(&self, offset: u64, buf: Buf) -> Result<()> {
        match self.next() {
            None => self.leaf.write(offset, buf).await,
            Some((filter, below)) => filter.write(below, offset, buf).await,
        }
    }

    /// Makes a range read as zeros.
    pub(crate) async fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<()> {
        match self.next() {
            None => self.leaf.write_zeroes(offset, len, unmap).await,
            Some((filter, below)) => filter.write_zeroes(below, offset, len, unmap).await,
        }
    }

    /// Says that the content of a range is not needed any more.
    pub(crate) async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        match self.next() {
            None => self.leaf.discard(offset, len).await,
            Some((filter, below)) => filter.discard(below, offset, len).await,
        }
    }

    /// Makes durable what was answered before, in leaves of the past too.
    pub(crate) async fn flush(&self) -> Result<()> {
        match self.next() {
            None => {
                self.ticket.disk.flush_old().await?;
                self.leaf.flush().await
            }
            Some((filter, below)) => filter.flush(below).await,
        }
    }
}

/// The way of a request from its beginning on.
pub(crate) struct Anew<'a> {
    ticket: &'a Ticket,
    leaf: Rc<Node>,
    filters: Option<Filters>,
}

impl Anew<'_> {
    pub(crate) fn below(&self) -> Below<'_> {
        Below::of(self.ticket, &self.leaf, &self.filters)
    }
}

/// A filter on a disk; dropping this removes it. Requests that began before still pass it.
pub(crate) struct Installed {
    disk: Rc<Disk>,
    filter: Rc<dyn Filter>,
}

impl Drop for Installed {
    fn drop(&mut self) {
        self.disk.change_filters(|filters| filters.retain(|other| !Rc::ptr_eq(other, &self.filter)));
    }
}

impl Disk {
    /// Has the requests that begin from now on pass `filter` first.
    pub(crate) fn install(self: &Rc<Self>, filter: Rc<dyn Filter>) -> Installed {
        self.change_filters(|filters| filters.insert(0, filter.clone()));
        Installed { disk: self.clone(), filter }
    }

    pub(super) fn change_filters(&self, change: impl FnOnce(&mut Vec<Rc<dyn Filter>>)) {
        let mut filters = self.filters.borrow().as_deref().map(<[_]>::to_vec).unwrap_or_default();
        change(&mut filters);
        *self.filters.borrow_mut() = (!filters.is_empty()).then(|| filters.into());
    }
}
