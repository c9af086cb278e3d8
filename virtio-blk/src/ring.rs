//! One virtqueue on the disk's thread: kicks, requests out of the ring, used entries and interrupts back
//! (virtio 1.2, 2.7).

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use executor::sync::Event;
use executor::{AsyncFd, spawn, yield_now};
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_device::ReadyQueue;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use crate::active::Shared;
use crate::backend::Backend;
use crate::chain::{self, Chain, Malformed};
use crate::request;

/// While so many bytes of data are in flight from one queue, the rest waits in the ring: a drain has not
/// much more than that to wait for.
const MAX_BYTES: u64 = 64 << 20;

/// One virtqueue.
pub(crate) struct Ring<B: Backend> {
    index: u16,
    shared: Rc<Shared<B>>,
    queue: RefCell<Queue>,
    kick: AsyncFd<EventFd>,
    /// Bytes of data in flight.
    bytes: Cell<u64>,
    /// Some of them ended.
    freed: Event,
    /// Requests taken and not yet in the used ring. An honest driver has at most one for each
    /// descriptor, so this bounds what a hostile one can make us hold.
    in_flight: Cell<u16>,
    /// Tickets of requests in the used ring that the driver was not told of yet.
    done: RefCell<Vec<B::Ticket>>,
    /// A task is on its way to tell.
    telling: Cell<bool>,
}

fn malformed(_: virtio_queue::Error) -> Malformed {
    Malformed("a ring index is out of range, or a ring lies outside of guest memory")
}

impl<B: Backend> Ring<B> {
    /// Watches the kicks of `ready`.
    ///
    /// # Errors
    /// Where the event loop does not take the eventfd.
    pub(crate) fn new(shared: Rc<Shared<B>>, ready: ReadyQueue) -> io::Result<Self> {
        let mut queue = ready.queue;
        queue.set_event_idx(shared.event_idx);
        Ok(Ring {
            index: ready.index,
            shared,
            queue: RefCell::new(queue),
            kick: AsyncFd::new(ready.kick)?,
            bytes: Cell::new(0),
            freed: Event::new(),
            in_flight: Cell::new(0),
            done: RefCell::default(),
            telling: Cell::new(false),
        })
    }

    /// Takes requests from the ring and starts them, until the device breaks or the task is cancelled.
    /// Looks into the ring before it waits for a kick: what is there may have been kicked long ago.
    pub(crate) async fn take_requests(self: Rc<Self>) {
        while !self.shared.broken.get() {
            // Before the look, so that a kick during it is not lost.
            self.kick.clear_readable();
            match self.take_available().await {
                // Others first: a driver that moves the index to and fro must not hold the thread.
                Ok(true) => yield_now().await,
                Ok(false) => self.kick.readable().await,
                Err(why) => self.shared.break_down(self.index, why),
            }
        }
    }

    /// Starts what is in the ring. `false` where notifications are on and the ring was empty after they
    /// were.
    async fn take_available(self: &Rc<Self>) -> Result<bool, Malformed> {
        self.queue.borrow_mut().disable_notification(self.memory()).map_err(malformed)?;
        // Ends: a driver cannot have more in flight than its ring has entries, and between two awaits
        // none of them is given back.
        while self.is_waiting()? {
            if self.bytes.get() >= MAX_BYTES {
                self.freed.wait().await;
                continue;
            }
            let ticket = match self.shared.disk.try_enter() {
                Some(ticket) => ticket,
                // The request stays in the ring meanwhile, so that a pause or reset finds it there.
                None => self.shared.disk.enter().await,
            };
            if self.shared.broken.get() {
                return Ok(true);
            }
            self.start_next(ticket)?;
        }
        self.queue.borrow_mut().enable_notification(self.memory()).map_err(malformed)
    }

    fn memory(&self) -> &GuestMemoryMmap {
        &self.shared.memory
    }

    /// Whether the ring holds a request that was not taken.
    fn is_waiting(&self) -> Result<bool, Malformed> {
        let queue = self.queue.borrow();
        let available = queue.avail_idx(self.memory(), Ordering::Acquire).map_err(malformed)?;
        let waiting = available.0.wrapping_sub(queue.next_avail());
        if waiting > queue.size() {
            return Err(Malformed("the available index is out of range"));
        }
        if waiting > 0 && self.in_flight.get() >= queue.size() {
            return Err(Malformed("more requests in flight than the ring has entries"));
        }
        Ok(waiting > 0)
    }

    /// Takes one request and starts it.
    fn start_next(self: &Rc<Self>, ticket: B::Ticket) -> Result<(), Malformed> {
        let mut queue = self.queue.borrow_mut();
        // Only the head is wanted of the iterator's chain; the walk is our own.
        let next = queue.iter(self.memory()).map_err(malformed)?.next();
        // The driver may have moved the index back since we looked.
        let head = next.ok_or(Malformed("the available index went back"))?.head_index();
        let chain = chain::read(&self.shared.memory, &queue, head, self.shared.indirect)?;
        self.in_flight.set(self.in_flight.get() + 1);
        self.bytes.set(self.bytes.get() + chain.readable.len() + chain.writable.len());
        self.shared.taken();
        spawn(self.clone().serve(head, chain, ticket));
        Ok(())
    }

    async fn serve(self: Rc<Self>, head: u16, chain: Chain, ticket: B::Ticket) {
        let status_at = chain.status;
        let bytes = chain.readable.len() + chain.writable.len();
        let outcome = request::serve(&*self.shared.disk, &ticket, &self.shared.config, chain).await;
        self.bytes.set(self.bytes.get() - bytes);
        self.freed.notify();
        self.complete(head, status_at, outcome, ticket);
    }

    fn complete(
        self: &Rc<Self>,
        head: u16,
        status_at: GuestAddress,
        outcome: request::Outcome,
        ticket: B::Ticket,
    ) {
        if !self.shared.silent.get() {
            let written = self.memory().write_obj(outcome.status, status_at).is_ok();
            let used = self.queue.borrow_mut().add_used(self.memory(), head, outcome.written).is_ok();
            if !(written && used) {
                self.shared.break_down(self.index, Malformed("a completion does not fit guest memory"));
            }
        }
        // Together with the used entry: from here on the driver may use the descriptors again.
        self.in_flight.set(self.in_flight.get() - 1);
        self.done.borrow_mut().push(ticket);
        if self.in_flight.get() == 0 {
            self.tell();
        } else if !self.telling.replace(true) {
            // One interrupt for all that end in this turn of the executor.
            let ring = self.clone();
            spawn(async move {
                yield_now().await;
                ring.tell();
            });
        }
    }

    /// Delivers what is in the used ring: interrupts the driver where it wants that, and only then lets
    /// the tickets go.
    fn tell(&self) {
        self.telling.set(false);
        let done = self.done.take();
        if done.is_empty() {
            return;
        }
        if !self.shared.silent.get() && self.wants_interrupt() {
            self.shared.interrupt.used(self.index);
        }
        let count = done.len();
        drop(done);
        self.shared.delivered(count);
    }

    /// What the driver says in the available ring (virtio 1.2, 2.7.7); `virtio-queue` leaves out the
    /// flag of drivers without EVENT_IDX.
    fn wants_interrupt(&self) -> bool {
        let mut queue = self.queue.borrow_mut();
        // An unreadable ring cannot be; if it is, an interrupt too many does no harm.
        let wanted = queue.needs_notification(self.memory()).unwrap_or(true);
        if self.shared.event_idx {
            return wanted;
        }
        let flags = self.memory().load::<u16>(GuestAddress(queue.avail_ring()), Ordering::Acquire);
        !flags.is_ok_and(|flags| u16::from_le(flags) & VRING_AVAIL_F_NO_INTERRUPT as u16 != 0)
    }
}
