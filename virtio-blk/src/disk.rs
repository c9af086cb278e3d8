//! `block`'s disks as back ends.

use std::rc::Rc;

use block::{Buf, Disk, DiskHandle, Result, Ticket};
use executor::Remote;

use crate::backend::{Backend, Handle};

impl Backend for Disk {
    type Ticket = Ticket;

    fn size(&self) -> u64 {
        Disk::size(self)
    }

    fn read_only(&self) -> bool {
        Disk::read_only(self)
    }

    fn try_enter(self: &Rc<Self>) -> Option<Ticket> {
        Disk::try_enter(self)
    }

    async fn enter(self: &Rc<Self>) -> Ticket {
        Disk::enter(self).await
    }

    async fn read(&self, ticket: &Ticket, offset: u64, buf: Buf) -> Result<()> {
        Disk::read(self, ticket, offset, buf).await
    }

    async fn write(&self, ticket: &Ticket, offset: u64, buf: Buf) -> Result<()> {
        Disk::write(self, ticket, offset, buf).await
    }

    async fn flush(&self, ticket: &Ticket) -> Result<()> {
        Disk::flush(self, ticket).await
    }

    async fn discard(&self, ticket: &Ticket, offset: u64, len: u64) -> Result<()> {
        Disk::discard(self, ticket, offset, len).await
    }

    async fn write_zeroes(&self, ticket: &Ticket, offset: u64, len: u64, unmap: bool) -> Result<()> {
        Disk::write_zeroes(self, ticket, offset, len, unmap).await
    }
}

impl Handle for DiskHandle {
    type Backend = Disk;

    fn remote(&self) -> &Remote {
        DiskHandle::remote(self)
    }

    fn get(&self) -> Option<Rc<Disk>> {
        DiskHandle::get(self)
    }
}
