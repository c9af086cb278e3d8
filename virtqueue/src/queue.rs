//! One virtqueue: kicks, chains out of the ring, used entries and interrupts back (virtio 1.2, 2.7).

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use buf::Buf;
use executor::sync::Event;
use executor::{AsyncFd, spawn, yield_now};
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_device::ReadyQueue;
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use crate::chain::{self, Content, Malformed};
use crate::runner::Shared;

/// While so many bytes of data are in flight from one queue, the rest waits in the ring: a drain has not
/// much more than that to wait for.
const MAX_BYTES: u64 = 64 << 20;

/// A virtqueue between DRIVER_OK and reset, to be used by one task at a time. With each completion goes a `K`
/// that is dropped when the driver has been told: until then what it stands for is not done.
pub struct Queue<K: 'static = ()>(Rc<Ring<K>>);

/// What the driver has made available. Its parts are guest memory: they may change at any time.
pub struct Chain<K: 'static = ()> {
    /// The bytes that the device may read, at most 2^32 together with those that it may write.
    pub readable: Buf,
    /// The bytes that the device may write.
    pub writable: Buf,
    /// The duty to give the chain back.
    pub token: Token<K>,
}

/// A chain's place in its ring. Dropped instead of completed, it takes the device for broken, since
/// the driver would wait for ever.
pub struct Token<K: 'static = ()> {
    /// `None` once it is completed or set aside.
    pub(crate) ring: Option<Rc<Ring<K>>>,
    pub(crate) head: u16,
    pub(crate) bytes: u64,
}

pub(crate) struct Ring<K> {
    pub(crate) index: u16,
    pub(crate) shared: Rc<Shared>,
    queue: RefCell<virtio_queue::Queue>,
    kick: AsyncFd<EventFd>,
    /// The driver was told to kick.
    listening: Cell<bool>,
    /// Chains taken since the task last let others have a turn.
    in_turn: Cell<u16>,
    /// Bytes of data in flight.
    bytes: Cell<u64>,
    /// Some of them ended.
    freed: Event,
    /// Chains taken and not yet in the used ring. An honest driver has at most one for each
    /// descriptor, so this bounds what a hostile one can make us hold.
    in_flight: Cell<u16>,
    /// Of the chains in the used ring that the driver was not told of yet.
    done: RefCell<Vec<K>>,
    /// A task is on its way to tell.
    telling: Cell<bool>,
}

const TOO_MANY: Malformed = Malformed("more chains in flight than the ring has entries");

fn malformed(_: virtio_queue::Error) -> Malformed {
    Malformed("a ring index is out of range, or a ring lies outside of guest memory")
}

impl<K: 'static> Queue<K> {
    /// Watches the kicks of `ready`.
    ///
    /// # Errors
    /// Where the event loop does not take the eventfd.
    pub(crate) fn new(shared: Rc<Shared>, ready: ReadyQueue) -> io::Result<Self> {
        let mut queue = ready.queue;
        queue.set_event_idx(shared.event_idx);
        Ok(Queue(Rc::new(Ring {
            index: ready.index,
            shared,
            queue: RefCell::new(queue),
            kick: AsyncFd::new(ready.kick)?,
            listening: Cell::new(true),
            in_turn: Cell::new(0),
            bytes: Cell::new(0),
            freed: Event::new(),
            in_flight: Cell::new(0),
            done: RefCell::default(),
            telling: Cell::new(false),
        })))
    }

    /// Its number.
    pub fn index(&self) -> u16 {
        self.0.index
    }

    /// The next chain. Waits for ever while the device is paused or broken. The future may be dropped.
    pub async fn next(&self) -> Chain<K> {
        loop {
            self.available().await;
            if let Some(chain) = self.take() {
                return chain;
            }
        }
    }

    /// Waits until there is a chain to [`Queue::take`], and leaves it in the ring. Looks there before it
    /// waits for a kick: what is there may have been kicked long ago. The future may be dropped.
    pub async fn available(&self) {
        let ring = &*self.0;
        loop {
            if ring.shared.broken.get() {
                return std::future::pending().await;
            }
            if ring.shared.paused.get() {
                ring.shared.resumed.wait().await;
                continue;
            }
            // Others first: neither a device that is as fast as its driver nor a driver that moves the index
            // to and fro may hold the thread.
            if ring.in_turn.get() >= ring.queue.borrow().size() {
                ring.in_turn.set(0);
                yield_now().await;
                continue;
            }
            match ring.look() {
                Ok(true) if ring.bytes.get() < MAX_BYTES => return,
                Ok(true) => ring.freed.wait().await,
                Ok(false) => {
                    ring.in_turn.set(0);
                    // Before the look that enabling takes, so that a kick during it is not lost.
                    ring.kick.clear_readable();
                    match ring.listen() {
                        Ok(true) => ring.kick.readable().await,
                        Ok(false) => yield_now().await,
                        Err(why) => ring.shared.break_down(ring.index, why),
                    }
                }
                Err(why) => ring.shared.break_down(ring.index, why),
            }
        }
    }

    /// Takes a chain, where there is one to take now.
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

    fn take_next(&self) -> Result<Option<Chain<K>>, Malformed> {
        let ring = &*self.0;
        let mut queue = ring.queue.borrow_mut();
        // Only the head is wanted of the iterator's chain; the walk is our own.
        let next = queue.iter(ring.memory()).map_err(malformed)?.next();
        let Some(head) = next.map(|chain| chain.head_index()) else { return Ok(None) };
        if ring.in_flight.get() >= queue.size() {
            return Err(TOO_MANY);
        }
        let Content { readable, writable } =
            chain::read(&ring.shared.memory, &queue, head, ring.shared.indirect)?;
        let bytes = (readable.len() + writable.len()) as u64;
        ring.in_turn.set(ring.in_turn.get() + 1);
        ring.in_flight.set(ring.in_flight.get() + 1);
        ring.bytes.set(ring.bytes.get() + bytes);
        ring.shared.taken();
        Ok(Some(Chain { readable, writable, token: Token { ring: Some(self.0.clone()), head, bytes } }))
    }
}

impl<K: 'static> Ring<K> {
    fn memory(&self) -> &GuestMemoryMmap {
        &self.shared.memory
    }

    /// Whether the ring holds a chain that was not taken.
    fn is_waiting(&self) -> Result<bool, Malformed> {
        let queue = self.queue.borrow();
        let available = queue.avail_idx(self.memory(), Ordering::Acquire).map_err(malformed)?;
        let waiting = available.0.wrapping_sub(queue.next_avail());
        if waiting > queue.size() {
            return Err(Malformed("the available index is out of range"));
        }
        if waiting > 0 && self.in_flight.get() >= queue.size() {
            return Err(TOO_MANY);
        }
        Ok(waiting > 0)
    }

    /// [`Ring::is_waiting`]; asks for no kicks while it is so.
    fn look(&self) -> Result<bool, Malformed> {
        let waiting = self.is_waiting()?;
        if waiting && self.listening.replace(false) {
            self.queue.borrow_mut().disable_notification(self.memory()).map_err(malformed)?;
        }
        Ok(waiting)
    }

    /// Asks for a kick. `false` where a chain came before the driver could know.
    fn listen(&self) -> Result<bool, Malformed> {
        self.listening.set(true);
        let came = self.queue.borrow_mut().enable_notification(self.memory()).map_err(malformed)?;
        Ok(!came)
    }

    /// A chain will never be given back, for which the driver would wait for ever.
    pub(crate) fn lost(&self) {
        self.shared.break_down(self.index, Malformed("a chain was not given back"));
    }

    pub(crate) fn release(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() - bytes);
        self.freed.notify();
        self.in_flight.set(self.in_flight.get() - 1);
    }

    /// Delivers what is in the used ring: interrupts the driver where it wants that, and only then lets go
    /// of what was kept until then.
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

impl<K: 'static> Token<K> {
    /// Whether the driver is to hear of it still. Once it has asked for a reset, nothing of what ends then is
    /// to be written to its memory.
    pub fn is_wanted(&self) -> bool {
        self.ring.as_ref().is_some_and(|ring| !ring.shared.silent.get())
    }

    /// Gives the chain back: `written` bytes were written from the start of its writable part on (virtio 1.2,
    /// 2.7.8.2; less than the truth is allowed). Chains that end together are told with one interrupt.
    pub fn complete(mut self, written: u32, keep: K) {
        let Some(ring) = self.ring.take() else { return };
        if !ring.shared.silent.get()
            && ring.queue.borrow_mut().add_used(ring.memory(), self.head, written).is_err()
        {
            ring.shared.break_down(ring.index, Malformed("a used entry does not fit guest memory"));
        }
        // Together with the used entry: from here on the driver may use the descriptors again.
        ring.release(self.bytes);
        ring.done.borrow_mut().push(keep);
        if ring.in_flight.get() == 0 {
            ring.tell();
        } else if !ring.telling.replace(true) {
            // One interrupt for all that end in this turn of the executor.
            spawn(async move {
                yield_now().await;
                ring.tell();
            });
        }
    }

    /// Does not give the chain back, because no driver may build such a one: the device needs a reset.
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
mod tests;
