//! What this device needs of a removable drive.

use std::future::Future;
use std::rc::Rc;

use block::tray::Listener;
use block::{Buf, Result};

/// A drive whose media are read, on its own thread. Offsets and lengths are in bytes.
pub trait Backend: 'static {
    /// A request's leave to be in flight. The medium is exchanged when no ticket exists, so a read keeps its
    /// own until its completion is delivered to the driver.
    type Ticket: 'static;

    /// Size of the medium in bytes, 0 without one.
    fn size(&self) -> u64;
    /// Whether there is a medium, be the tray open or closed.
    fn has_medium(&self) -> bool;
    /// Whether the tray is open.
    fn is_open(&self) -> bool;
    /// Whether the guest has locked the tray.
    fn is_locked(&self) -> bool;
    /// Locks or unlocks the tray.
    fn set_locked(&self, locked: bool);
    /// Opens or closes the tray, which is not locked; listeners hear of it.
    fn move_tray(&self, open: bool);
    /// Calls `listener` for each event of the tray, until it is dropped.
    fn listen(&self, listener: &Listener);
    /// A ticket, once the gate is open and the requests inside move less than may be. The future may be
    /// dropped at any time.
    fn enter(self: &Rc<Self>) -> impl Future<Output = Self::Ticket>;
    /// Says how many bytes the request with this ticket moves. Called as soon as there is the ticket.
    fn carry(ticket: &mut Self::Ticket, bytes: u64);
    /// Reads the bytes at `offset` into the whole of `buf`. Bounds are the drive's to check too.
    fn read(&self, ticket: &Self::Ticket, offset: u64, buf: Buf) -> impl Future<Output = Result<()>>;
}
