//! The operations that this device needs of a disk.

use std::future::Future;
use std::rc::Rc;

use block::{Buf, Result};

/// A disk, on its own thread. Offsets and lengths are in bytes.
///
/// The device checks every range against [`Backend::size`] before a request, but the disk's size may change
/// before the disk handles it. So the disk must check bounds too.
pub trait Backend: 'static {
    /// A request's permission to be in flight. The disk counts as drained when no ticket exists, so a
    /// request keeps its ticket until its completion is delivered to the driver.
    type Ticket: 'static;

    /// Returns the current size in bytes.
    fn size(&self) -> u64;
    /// Returns true if writes are refused.
    fn read_only(&self) -> bool;
    /// Returns the name of the image that requests go to now, if it has one.
    fn node_name(&self) -> Option<String> {
        None
    }
    /// Returns a ticket, or `None` while the gate is closed or the requests inside move the maximum number
    /// of bytes.
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
}
