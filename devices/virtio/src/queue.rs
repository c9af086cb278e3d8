//! One virtqueue: kicks, chains out of the ring, used entries and interrupts back (virtio 1.2, 2.7).

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::atomic::{Ordering, fence};

use crate::ReadyQueue;
use buf::Buf;
use executor::sync::Event;
use executor::{AsyncFd, spawn, yield_now};
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use crate::chain::{self, Content, Malformed};
use crate::runner::Shared;

/// While this many bytes of chains are in flight from one queue, the rest waits in the ring. A chain may
/// make its device do more than its bytes (a range to zero): the device must limit that itself.
const MAX_BYTES: u64 = 64 << 20;

/// A virtqueue between DRIVER_OK and reset, to be used by one task at a time. Each completion takes a `K`,
/// which is dropped when the driver has been notified: until then the request that it stands for is not
/// done.
pub struct Queue<K: 'static = ()>(pub(crate) Rc<Ring<K>>);

/// A chain that the driver has made available. Its parts are guest memory: they may change at any time.
pub struct Chain<K: 'static = ()> {
    /// The bytes that the device may read: at most 2^32 together with the writable ones.
    pub readable: Buf,
    /// The bytes that the device may write.
    pub writable: Buf,
    /// The duty to give the chain back.
    pub token: Token<K>,
}

/// A chain's place in its ring. Dropping it instead of completing it breaks the device, since the driver
/// would wait forever.
pub struct Token<K: 'static = ()> {
    /// `None` once it is completed or parked.
    pub(crate) ring: Option<Rc<Ring<K>>>,
    pub(crate) head: u16,
    pub(crate) bytes: u64,
    /// Number of descriptors of the queue's table that the chain takes.
    pub(crate) descriptors: u16,
}

pub(crate) struct Ring<K> {
    pub(crate) index: u16,
    pub(crate) shared: Rc<Shared>,
    pub(crate) queue: RefCell<virtio_queue::Queue>,
    kick: AsyncFd<EventFd>,
    /// True if the driver was asked to kick.
    listening: Cell<bool>,
    /// Number of chains taken since the task last let others have a turn.
    in_turn: Cell<u16>,
    /// Number of bytes in flight.
    bytes: Cell<u64>,
    /// Notified when chains in flight have ended.
    freed: Event,
    /// Number of chains taken and not yet in the used ring. An honest driver has at most one for each
    /// descriptor, so this bounds what a hostile one can make us hold.
    in_flight: Cell<u16>,
    /// The `K` of each chain in the used ring that the driver was not notified of yet.
    done: RefCell<Vec<K>>,
    /// True while a task is about to notify the driver.
    notify_pending: Cell<bool>,
    /// The used index when a notification was last considered.
    notified_at: Cell<u16>,
}

const TOO_MANY: Malformed = Malformed("more chains in flight than the ring has entries");

fn malformed(_: virtio_queue::Error) -> Malformed {
    Malformed("a ring index is out of range, or a ring lies outside of guest memory")
}

impl<K: 'static> Queue<K> {
    /// Returns the queue of `ready`, and watches its kicks.
    ///
    /// # Errors
    /// Fails if the event loop does not accept the eventfd.
    pub(crate) fn new(shared: Rc<Shared>, ready: ReadyQueue) -> io::Result<Self> {
        let mut queue = ready.queue;
        queue.set_event_idx(shared.event_idx);
        Ok(Queue(Rc::new(Ring {
            index: ready.index,
            shared,
            notified_at: Cell::new(queue.next_used()),
            queue: RefCell::new(queue),
            kick: AsyncFd::for_reading(ready.kick)?,
            listening: Cell::new(true),
            in_turn: Cell::new(0),
            bytes: Cell::new(0),
            freed: Event::new(),
            in_flight: Cell::new(0),
            done: RefCell::default(),
            notify_pending: Cell::new(false),
        })))
    }

    /// Returns its number.
    pub fn index(&self) -> u16 {
        self.0.index
    }

    /// Returns the number of descriptors of its ring, which is also its maximum number of chains.
    pub fn size(&self) -> u16 {
        self.0.queue.borrow().size()
    }

    /// Waits for the next chain; forever while the device is paused or broken. The future may be dropped.
    pub async fn next(&self) -> Chain<K> {
        loop {
            self.available().await;
            if let Some(chain) = self.take() {
                return chain;
            }
        }
    }

    /// Waits until there is a chain to [`Queue::take`], and leaves it in the ring. Checks the ring before it
    /// waits for a kick, since a chain may have been kicked long ago. The future may be dropped.
    pub async fn available(&self) {
        self.available_beyond(0).await
    }

    /// Like [`Queue::available`], but waits until there are more than `count` chains.
    pub async fn available_beyond(&self, count: u16) {
        let ring = &*self.0;
        loop {
            if ring.shared.broken.get() {
                return std::future::pending().await;
            }
            if ring.shared.paused.get() {
                ring.shared.resumed.wait().await;
                continue;
            }
            // Lets others run first: neither a device that is as fast as its driver nor a driver that moves
            // the index to and fro may occupy the thread.
            if ring.in_turn.get() >= ring.queue.borrow().size() {
                ring.in_turn.set(0);
                yield_now().await;
                continue;
            }
            match ring.look(count) {
                Ok(true) if ring.bytes.get() < MAX_BYTES => return,
                Ok(true) => ring.freed.wait().await,
                Ok(false) => {
                    ring.in_turn.set(0);
                    // Cleared before `listen` looks at the ring, so that a kick meanwhile is not lost.
                    ring.kick.clear_readable();
                    match ring.listen(count) {
                        Ok(true) => ring.kick.readable().await,
                        Ok(false) => yield_now().await,
                        Err(why) => ring.shared.break_down(ring.index, why),
                    }
                }
                Err(why) => ring.shared.break_down(ring.index, why),
            }
        }
    }

    /// Takes a chain, if there is one to take now.
    pub fn take(&self) -> Option<Chain<K>> {
        let shared = &self.0.shared;
        if shared.broken.get() || shared.paused.get() {
            return None;
        }
        self.take_next().unwrap_or_else(|why| {
            shared.break_down(self.0.index, why);
            None
        })
    }

    /// Returns the next of the chains that are in the ring now; waits only while the maximum is in flight.
    /// Returns `None` if there is no chain, and while the device is paused or broken.
    pub async fn next_there(&self) -> Option<Chain<K>> {
        let ring = &*self.0;
        let is_held = || !ring.shared.paused.get() && !ring.shared.broken.get();
        // `take` finds out if the ring is malformed.
        while is_held() && ring.bytes.get() >= MAX_BYTES && ring.is_waiting(0).is_ok_and(|waiting| waiting) {
            ring.freed.wait().await;
        }
        self.take()
    }

    fn take_next(&self) -> Result<Option<Chain<K>>, Malformed> {
        let ring = &*self.0;
        let mut queue = ring.queue.borrow_mut();
        // Only the head of the iterator's chain is used; the walk is our own.
        let next = queue.iter(ring.memory()).map_err(malformed)?.next();
        let Some(head) = next.map(|chain| chain.head_index()) else { return Ok(None) };
        if ring.in_flight.get() >= queue.size() {
            return Err(TOO_MANY);
        }
        let Content { readable, writable, descriptors } =
            chain::read(&ring.shared.memory, &queue, head, ring.shared.indirect)?;
        let bytes = (readable.len() + writable.len()) as u64;
        // Saturating, since a guest may have any number of chains taken in one turn.
        ring.in_turn.set(ring.in_turn.get().saturating_add(1));
        ring.in_flight.set(ring.in_flight.get() + 1);
        ring.bytes.set(ring.bytes.get() + bytes);
        ring.shared.taken();
        let token = Token { ring: Some(self.0.clone()), head, bytes, descriptors };
        Ok(Some(Chain { readable, writable, token }))
    }
}

impl<K: 'static> Ring<K> {
    pub(crate) fn memory(&self) -> &GuestMemoryMmap {
        &self.shared.memory
    }

    /// Returns true if the ring holds more than `count` chains that were not taken.
    fn is_waiting(&self, count: u16) -> Result<bool, Malformed> {
        let queue = self.queue.borrow();
        let available = queue.avail_idx(self.memory(), Ordering::Acquire).map_err(malformed)?;
        let waiting = available.0.wrapping_sub(queue.next_avail());
        if waiting > queue.size() {
            return Err(Malformed("the available index is out of range"));
        }
        if waiting > 0 && self.in_flight.get() >= queue.size() {
            return Err(TOO_MANY);
        }
        Ok(waiting > count)
    }

    /// Like [`Ring::is_waiting`], and turns kicks off if the result is true.
    fn look(&self, count: u16) -> Result<bool, Malformed> {
        let waiting = self.is_waiting(count)?;
        if waiting && self.listening.replace(false) {
            self.queue.borrow_mut().disable_notification(self.memory()).map_err(malformed)?;
        }
        Ok(waiting)
    }

    /// Asks for a kick when there are more than `count` chains. Returns false if they came before the driver
    /// could know.
    fn listen(&self, count: u16) -> Result<bool, Malformed> {
        self.listening.set(true);
        {
            let mut queue = self.queue.borrow_mut();
            let next = queue.next_avail();
            // A driver with EVENT_IDX kicks for the chain at this index, not for one behind it (2.7.7.1).
            queue.set_next_avail(next.wrapping_add(count));
            let asked = queue.enable_notification(self.memory());
            queue.set_next_avail(next);
            asked.map_err(malformed)?;
        }
        Ok(!self.is_waiting(count)?)
    }

    /// Breaks the device: a chain will never be given back, for which the driver would wait forever.
    pub(crate) fn lost(&self) {
        self.shared.break_down(self.index, Malformed("a chain was not given back"));
    }

    pub(crate) fn release(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() - bytes);
        self.freed.notify();
        self.in_flight.set(self.in_flight.get() - 1);
    }

    /// Delivers the chains in the used ring: interrupts the driver if it wants that, and only then drops
    /// what was kept until then.
    fn notify(&self) {
        self.notify_pending.set(false);
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

    /// Returns true if the driver wants an interrupt, by its available ring (virtio 1.2, 2.7.7).
    /// `virtio-queue` ignores the flag of drivers without EVENT_IDX, and does not know of used entries that
    /// it did not write.
    fn wants_interrupt(&self) -> bool {
        let queue = self.queue.borrow();
        let next = queue.next_used();
        let notified_at = self.notified_at.replace(next);
        // The used index must be in memory before the driver's choice is read.
        fence(Ordering::SeqCst);
        let load = |offset| {
            let address = GuestAddress(queue.avail_ring() + offset);
            self.memory().load::<u16>(address, Ordering::Acquire).ok().map(u16::from_le)
        };
        // The ring is readable; if it were not, an interrupt too many would do no harm.
        if self.shared.event_idx {
            let event = load(4 + 2 * u64::from(queue.size()));
            return event.is_none_or(|event| {
                next.wrapping_sub(event).wrapping_sub(1) < next.wrapping_sub(notified_at)
            });
        }
        load(0).is_none_or(|flags| flags & VRING_AVAIL_F_NO_INTERRUPT as u16 == 0)
    }
}

impl<K: 'static> Token<K> {
    /// Returns true if the driver still waits for the chain. Once it has asked for a reset, nothing may be
    /// written to its memory any more.
    pub fn is_wanted(&self) -> bool {
        self.ring.as_ref().is_some_and(|ring| !ring.shared.silent.get())
    }

    /// Gives the chain back: `written` bytes were written, from the start of its writable part on (virtio
    /// 1.2, 2.7.8.2; less than the real number is allowed). Chains that end together share one interrupt.
    pub fn complete(self, written: u32, keep: K) {
        if let Some(ring) = self.ring.as_ref().filter(|_| self.is_wanted())
            && ring.queue.borrow_mut().add_used(ring.memory(), self.head, written).is_err()
        {
            ring.shared.break_down(ring.index, Malformed("a used entry does not fit guest memory"));
        }
        self.finish(keep);
    }

    /// Does what follows the used entry: from here on the driver may use the descriptors again.
    pub(crate) fn hand_over(&mut self, keep: K) -> Option<Rc<Ring<K>>> {
        let ring = self.ring.take()?;
        ring.release(self.bytes);
        ring.done.borrow_mut().push(keep);
        Some(ring)
    }

    fn finish(mut self, keep: K) {
        let Some(ring) = self.hand_over(keep) else { return };
        if ring.in_flight.get() == 0 {
            ring.notify();
        } else if !ring.notify_pending.replace(true) {
            // One interrupt for all chains that end in this turn of the executor.
            spawn(async move {
                yield_now().await;
                ring.notify();
            });
        }
    }

    /// Leaves the chain in the ring as if it had not been taken. The caller must set the index back.
    pub(crate) fn put_back(mut self) {
        let Some(ring) = self.ring.take() else { return };
        ring.release(self.bytes);
        ring.shared.delivered(1);
    }

    /// Breaks the device, because no driver may build such a chain: the device needs a reset.
    pub fn refuse(self, why: Malformed) {
        if let Some(ring) = &self.ring {
            ring.shared.break_down(ring.index, why);
        }
    }
}

impl<K: 'static> Drop for Token<K> {
    fn drop(&mut self) {
        let Some(ring) = self.ring.take() else { return };
        ring.lost();
        ring.release(self.bytes);
        ring.shared.delivered(1);
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
pub(crate) mod tests;
