//! The front of a disk: all that a guest's device or an export needs of it.

use std::future::Future;
use std::rc::Rc;

use super::tray::Tray;
use super::{Disk, Ticket};
use crate::image::Run;
use crate::{Buf, Result};

/// A disk, on its own thread, as those use it that pass requests on to it. Offsets and lengths are in bytes.
///
/// Whoever passes on a request may check its range against [`Front::size`] first, but the size may change
/// before the disk handles the request. So the disk checks bounds too.
pub trait Front: 'static {
    /// A request's permission to be in flight. The disk counts as drained when no ticket exists, so a request
    /// keeps its ticket until its answer has been delivered.
    type Ticket: 'static;

    /// Returns the current size in bytes; 0 for a drive without a medium.
    fn size(&self) -> u64;
    /// Returns true if writes are refused.
    fn read_only(&self) -> bool;
    /// Returns the name of the image that requests go to now.
    fn node_name(&self) -> String;
    /// Returns the tray, if the disk is a removable drive.
    fn tray(&self) -> Option<&Tray>;
    /// Returns true if there is a medium, with the tray open or closed. A disk without a tray always has one.
    fn has_medium(&self) -> bool;
    /// Returns a ticket, or `None` while the gate is closed or the requests inside move the maximum number of
    /// bytes.
    fn try_enter(self: &Rc<Self>) -> Option<Self::Ticket>;
    /// Waits for a ticket. The future may be dropped at any time.
    fn enter(self: &Rc<Self>) -> impl Future<Output = Self::Ticket>;
    /// Sets the number of bytes that the request with this ticket moves: its data, or the range to zero or
    /// discard. Called as soon as the ticket exists.
    fn carry(ticket: &mut Self::Ticket, bytes: u64);
    /// Returns the maximum number of bytes of a discard or write-zeroes request per ticket.
    fn zero_piece(&self) -> u64;
    /// Reads the bytes at `offset` into the whole of `buf`.
    fn read(&self, ticket: &Self::Ticket, offset: u64, buf: Buf) -> impl Future<Output = Result<()>>;
    /// Writes the whole of `buf` to `offset`.
    fn write(&self, ticket: &Self::Ticket, offset: u64, buf: Buf) -> impl Future<Output = Result<()>>;
    /// Makes everything that was acknowledged before durable.
    fn flush(&self, ticket: &Self::Ticket) -> impl Future<Output = Result<()>>;
    /// Discards the content of a range, which may read as anything afterwards.
    fn discard(&self, ticket: &Self::Ticket, offset: u64, len: u64) -> impl Future<Output = Result<()>>;
    /// Makes a range read as zeros. With `unmap`, its space may be freed.
    fn write_zeroes(
        &self,
        ticket: &Self::Ticket,
        offset: u64,
        len: u64,
        unmap: bool,
    ) -> impl Future<Output = Result<()>>;
    /// Returns the run at `offset`, at most `len` bytes long. Reads no data.
    fn map(&self, ticket: &Self::Ticket, offset: u64, len: u64) -> impl Future<Output = Result<Run>>;
}

impl Front for Disk {
    type Ticket = Ticket;

    fn size(&self) -> u64 {
        self.size()
    }
    fn read_only(&self) -> bool {
        self.read_only()
    }
    fn node_name(&self) -> String {
        self.leaf().node_name()
    }
    fn tray(&self) -> Option<&Tray> {
        self.tray.as_ref()
    }
    fn has_medium(&self) -> bool {
        self.has_medium()
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
        self.zero_piece()
    }
    fn read(&self, ticket: &Ticket, offset: u64, buf: Buf) -> impl Future<Output = Result<()>> {
        self.read(ticket, offset, buf)
    }
    fn write(&self, ticket: &Ticket, offset: u64, buf: Buf) -> impl Future<Output = Result<()>> {
        self.write(ticket, offset, buf)
    }
    fn flush(&self, ticket: &Ticket) -> impl Future<Output = Result<()>> {
        self.flush(ticket)
    }
    fn discard(&self, ticket: &Ticket, offset: u64, len: u64) -> impl Future<Output = Result<()>> {
        self.discard(ticket, offset, len)
    }
    fn write_zeroes(
        &self,
        ticket: &Ticket,
        offset: u64,
        len: u64,
        unmap: bool,
    ) -> impl Future<Output = Result<()>> {
        self.write_zeroes(ticket, offset, len, unmap)
    }
    async fn map(&self, _: &Ticket, offset: u64, len: u64) -> Result<Run> {
        self.leaf().map(offset, len).await
    }
}
