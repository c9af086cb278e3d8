//! The operations that this device needs of a removable drive.

use std::future::Future;
use std::rc::Rc;

use block::tray::Listener;
use block::{Buf, Result};

/// A drive whose media are read, on its own thread. Offsets and lengths are in bytes.
pub trait Backend: 'static {
    /// A request's permission to be in flight. The medium is only exchanged when no ticket exists, so a read
    /// keeps its ticket until its completion is delivered to the driver.
    type Ticket: 'static;

    /// Returns the size of the medium in bytes, or 0 without one.
    fn size(&self) -> u64;
    /// Returns true if there is a medium, with the tray open or closed.
    fn has_medium(&self) -> bool;
    /// Returns true if the tray is open.
    fn is_open(&self) -> bool;
    /// Returns true if the guest has locked the tray.
    fn is_locked(&self) -> bool;
    /// Locks or unlocks the tray.
    fn set_locked(&self, locked: bool);
    /// Opens or closes the tray, which must not be locked, and notifies listeners.
    fn move_tray(&self, open: bool);
    /// Calls `listener` for each event of the tray, until it is dropped.
    fn listen(&self, listener: &Listener);
    /// Waits for a ticket, until the gate is open and the requests inside move less than the maximum. The
    /// future may be dropped at any time.
    fn enter(self: &Rc<Self>) -> impl Future<Output = Self::Ticket>;
    /// Sets the number of bytes that the request with this ticket moves. Called as soon as the ticket
    /// exists.
    fn carry(ticket: &mut Self::Ticket, bytes: u64);
    /// Reads the bytes at `offset` into the whole of `buf`. The drive must check bounds too.
    fn read(&self, ticket: &Self::Ticket, offset: u64, buf: Buf) -> impl Future<Output = Result<()>>;
}
