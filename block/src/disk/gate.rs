//! The gate of a disk: what counts the requests inside, closes, and waits until nothing is in flight.
//!
//! Every request passes the gate with a [`Ticket`], which is dropped when its answer has been delivered.
//! A disk is drained when no ticket is left, and no copy of a job is in flight either ([`CopyTicket`]).

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use executor::sync::Event;

use super::Disk;

/// While the requests inside a disk's gate move this many bytes together, further ones wait outside. So
/// a drain has no more than this and one [`PIECE`] to wait for, whoever sends requests and however many
/// they are.
pub const MOST_INSIDE: u64 = 64 << 20;

/// The most bytes that one ticket is to carry. A longer request is done in pieces of this length, each with a
/// ticket of its own.
pub const PIECE: u64 = 16 << 20;

/// The length of the first piece of `len` bytes at `offset`: all of them up to `most`; of more, those up to
/// the next multiple of `most`. All are in bytes, and `most` is not 0.
pub fn first_piece(offset: u64, len: u64, most: u64) -> u64 {
    if len <= most { len } else { most - offset % most }
}

/// The gate that requests pass, and the counts of what is inside.
#[derive(Default)]
pub(super) struct Gate {
    /// The number of those who keep it closed: jobs that share no image may do so at once.
    closed: Cell<u64>,
    /// Requests inside.
    inside: Cell<u64>,
    /// Bytes that those requests move.
    carried: Cell<u64>,
    /// Copies of jobs in flight.
    copies: Cell<u64>,
    changed: Event,
}

impl Gate {
    /// Returns true if a request is inside.
    pub(super) fn is_busy(&self) -> bool {
        self.inside.get() > 0
    }

    fn is_closed(&self) -> bool {
        self.closed.get() > 0
    }

    fn is_empty(&self) -> bool {
        self.inside.get() == 0 && self.copies.get() == 0
    }

    fn left(&self) {
        if self.is_closed() && self.is_empty() {
            self.changed.notify();
        }
    }
}

/// A request in flight. Drop it only when the answer has been delivered: until then the disk counts as
/// not drained.
pub struct Ticket {
    pub(super) disk: Rc<Disk>,
    carried: u64,
}

impl Ticket {
    /// Says that the request moves `bytes` bytes: of data, or of a range that is zeroed or discarded,
    /// which may come to writing zeros. Must be called before anything else is awaited, because it is
    /// what makes others wait outside.
    pub fn carry(&mut self, bytes: u64) {
        let gate = &self.disk.gate;
        let before = gate.carried.get();
        let after = before.saturating_sub(self.carried).saturating_add(bytes);
        gate.carried.set(after);
        self.carried = bytes;
        if before >= MOST_INSIDE && after < MOST_INSIDE {
            gate.changed.notify();
        }
    }

    /// Returns another ticket, for work that outlives the request that has this one. The gate may be
    /// closed by now, but the request is inside.
    pub(crate) fn again(&self) -> Ticket {
        let inside = &self.disk.gate.inside;
        inside.set(inside.get() + 1);
        Ticket { disk: self.disk.clone(), carried: 0 }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let gate = &self.disk.gate;
        gate.inside.set(gate.inside.get() - 1);
        let before = gate.carried.get();
        let after = before.saturating_sub(self.carried);
        gate.carried.set(after);
        if before >= MOST_INSIDE && after < MOST_INSIDE {
            gate.changed.notify();
        }
        gate.left();
    }
}

/// A copy of a job in flight. It does not count as a request of the guest, but a drain awaits it.
pub(crate) struct CopyTicket {
    disk: Rc<Disk>,
}

impl Drop for CopyTicket {
    fn drop(&mut self) {
        let gate = &self.disk.gate;
        gate.copies.set(gate.copies.get() - 1);
        gate.left();
    }
}

/// The closed gate; it opens when this is dropped.
pub(crate) struct Closed {
    disk: Rc<Disk>,
}

impl Drop for Closed {
    fn drop(&mut self) {
        let gate = &self.disk.gate;
        gate.closed.set(gate.closed.get() - 1);
        if !gate.is_closed() {
            self.disk.flight.gate(executor::now(), false);
        }
        self.disk.gate.changed.notify();
    }
}

impl Disk {
    /// Passes the gate if it is open and those inside move less than [`MOST_INSIDE`] bytes. The caller
    /// reports with [`Ticket::carry`] how much its request moves.
    pub fn try_enter(self: &Rc<Self>) -> Option<Ticket> {
        if self.gate.is_closed() || self.gate.carried.get() >= MOST_INSIDE {
            return None;
        }
        self.gate.inside.set(self.gate.inside.get() + 1);
        Some(Ticket { disk: self.clone(), carried: 0 })
    }

    /// Waits until [`Disk::try_enter`] passes.
    pub async fn enter(self: &Rc<Self>) -> Ticket {
        loop {
            match self.try_enter() {
                Some(ticket) => return ticket,
                None => self.gate.changed.wait().await,
            }
        }
    }

    /// Waits until the gate is open, and begins a copy of a job.
    pub(crate) async fn begin_copy(self: &Rc<Self>) -> CopyTicket {
        while self.gate.is_closed() {
            self.gate.changed.wait().await;
        }
        self.gate.copies.set(self.gate.copies.get() + 1);
        CopyTicket { disk: self.clone() }
    }

    /// Closes the gate and waits until the disk is drained. Returns `None` if that takes longer than
    /// `deadline`: the gate is open again then, and nothing has changed.
    pub(crate) async fn drain(self: &Rc<Self>, deadline: Duration) -> Option<Closed> {
        if !self.gate.is_closed() {
            self.flight.gate(executor::now(), true);
        }
        self.gate.closed.set(self.gate.closed.get() + 1);
        let closed = Closed { disk: self.clone() };
        let empty = async {
            while !self.gate.is_empty() {
                self.gate.changed.wait().await;
            }
        };
        executor::timeout(deadline, empty).await.map(|()| closed)
    }
}
