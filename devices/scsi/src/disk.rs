//! The block layer's disk with a tray as this device's back end.

use std::future::Future;
use std::rc::Rc;

use block::tray::Listener;
use block::{Buf, Disk, Result, Ticket};

use crate::backend::Backend;

impl Backend for Disk {
    type Ticket = Ticket;

    fn size(&self) -> u64 {
        Disk::size(self)
    }
    fn has_medium(&self) -> bool {
        Disk::has_medium(self)
    }
    // A disk without a tray is a drive that never opens.
    fn is_open(&self) -> bool {
        self.tray().is_ok_and(|tray| tray.is_open())
    }
    fn is_locked(&self) -> bool {
        self.tray().is_ok_and(|tray| tray.is_locked())
    }
    fn set_locked(&self, locked: bool) {
        if let Ok(tray) = self.tray() {
            tray.set_locked(locked);
        }
    }
    fn move_tray(&self, open: bool) {
        let moved = if open { self.open_tray(false) } else { self.close_tray() };
        if let Err(e) = moved {
            tracing::debug!("the guest cannot move the tray: {e}");
        }
    }
    fn listen(&self, listener: &Listener) {
        if let Ok(tray) = self.tray() {
            tray.listen(listener);
        }
    }
    fn enter(self: &Rc<Self>) -> impl Future<Output = Ticket> {
        Disk::enter(self)
    }
    fn carry(ticket: &mut Ticket, bytes: u64) {
        ticket.carry(bytes);
    }
    fn read(&self, ticket: &Ticket, offset: u64, buf: Buf) -> impl Future<Output = Result<()>> {
        Disk::read(self, ticket, offset, buf)
    }
}
