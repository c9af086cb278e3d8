//! What this device needs of a disk.

use std::future::Future;
use std::rc::Rc;

use block::{Buf, Result};

/// A disk, on its own thread. Offsets and lengths are in bytes.
///
/// The device checks every range against [`Backend::size`] before it asks, but the disk may change its
/// size before it gets to the request: bounds are the disk's to check too.
pub trait Backend: 'static {
    /// A request's leave to be in flight. The disk counts as drained when no ticket exists, so a request
    /// keeps its own until its completion is delivered to the driver.
    type Ticket: 'static;

    /// Current size in bytes.
    fn size(&self) -> u64;
    /// Whether writes are refused.
    fn read_only(&self) -> bool;
    /// The name of the image that requests go to now, where it has one.
    fn node_name(&self) -> Option<String> {
        None
    }
    /// A ticket, or `None` while the gate is closed, or the requests inside move as many bytes as may be.
    fn try_enter(self: &Rc<Self>) -> Option<Self::Ticket>;
    /// Waits until [`Backend::try_enter`] gives a ticket. The future may be dropped at any time.
    fn enter(self: &Rc<Self>) -> impl Future<Output = Self::Ticket>;
    /// Says how many bytes the request with this ticket moves, be it data or a range to zero or discard.
    /// Called as soon as there is the ticket.
    fn carry(ticket: &mut Self::Ticket, bytes: u64);
    /// The most bytes of a discard or write-zeroes request that are done with one ticket.
    fn zero_piece(&self) -> u64;
    /// Reads the bytes at `offset` into the whole of `buf`.
    fn read(&self, ticket: &Self::Ticket, offset: u64, buf: Buf) -> impl Future<Output = Result<()>>;
    /// Writes the whole of `buf` to `offset`.
    fn write(&self, ticket: &Self::Ticket, offset: u64, buf: Buf) -> impl Future<Output = Result<()>>;
    /// Makes everything that was acknowledged before durable.
    fn flush(&self, ticket: &Self::Ticket) -> impl Future<Output = Result<()>>;
    /// Forgets the content of a range: it may read as anything afterwards.
    fn discard(&self, ticket: &Self::Ticket, offset: u64, len: u64) -> impl Future<Output = Result<()>>;
    /// Makes a range read as zeros; with `unmap`, its space may be given back.
    fn write_zeroes(
        &self,
        ticket: &Self::Ticket,
        offset: u64,
        len: u64,
        unmap: bool,
    ) -> impl Future<Output = Result<()>>;
}
