//! The block layer's disk as this device's back end.

use std::future::Future;
use std::rc::Rc;

use block::{Buf, Disk, Result, Ticket};

use crate::backend::Backend;

impl Backend for Disk {
    type Ticket = Ticket;

    fn size(&self) -> u64 {
        self.size()
    }
    fn read_only(&self) -> bool {
        self.read_only()
    }
    fn node_name(&self) -> Option<String> {
        Some(self.leaf().node_name())
    }
    fn try_enter(self: &Rc<Self>) -> Option<Ticket> {
        Disk::try_enter(self)
    }
    fn enter(self: &Rc<Self>) -> impl Future<Output = Ticket> {
        Disk::enter(self)
    }
    fn carry(ticket: &mut Ticket, bytes: u64) {
        ticket.carry(bytes);
    }
    fn zero_piece(&self) -> u64 {
        Disk::zero_piece(self)
    }
    fn read(&self, ticket: &Ticket, offset: u64, buf: Buf) -> impl Future<Output = Result<()>> {
        Disk::read(self, ticket, offset, buf)
    }
    fn write(&self, ticket: &Ticket, offset: u64, buf: Buf) -> impl Future<Output = Result<()>> {
        Disk::write(self, ticket, offset, buf)
    }
    fn flush(&self, ticket: &Ticket) -> impl Future<Output = Result<()>> {
        Disk::flush(self, ticket)
    }
    fn discard(&self, ticket: &Ticket, offset: u64, len: u64) -> impl Future<Output = Result<()>> {
        Disk::discard(self, ticket, offset, len)
    }
    fn write_zeroes(
        &self,
        ticket: &Ticket,
        offset: u64,
        len: u64,
        unmap: bool,
    ) -> impl Future<Output = Result<()>> {
        Disk::write_zeroes(self, ticket, offset, len, unmap)
    }
}
