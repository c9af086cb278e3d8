//! The part of a device that lives on the executor's thread between DRIVER_OK and reset.
//!
//! A task of the executor owns it, so it ends with that executor at the latest; other threads have a handle.
//! Each step does its work when it is called and leaves only the waiting to its future, so calls from other
//! threads take effect in their order.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use crate::{Activation, Interrupt};
use executor::sync::{Event, OneSender, oneshot};
use executor::{Handle, JoinHandle, Remote, Reply, spawn};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueT;

use crate::chain::{Malformed, Memory};
use crate::queue::Queue;

/// The work of a device between DRIVER_OK and reset. It is cancelled when no chain is in flight. It should
/// own its parked chains ([`crate::ParkedChain`]), so that they end with it.
pub type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Returns true if `features` has the bit of a VIRTIO_*_F constant.
pub fn has(features: u64, bit: u32) -> bool {
    features & (1 << bit) != 0
}

/// The state that all queues of an active device share.
pub(crate) struct Shared {
    pub(crate) memory: Memory,
    pub(crate) interrupt: Arc<dyn Interrupt>,
    /// True if VIRTIO_RING_F_INDIRECT_DESC was negotiated.
    pub(crate) indirect: bool,
    /// True if VIRTIO_RING_F_EVENT_IDX was negotiated.
    pub(crate) event_idx: bool,
    /// True if a ring or chain was malformed: nothing is taken from any ring any more.
    pub(crate) broken: Cell<bool>,
    /// True if the driver has asked for a reset: it is not notified of what ends now.
    pub(crate) silent: Cell<bool>,
    /// True while paused: nothing is taken from any ring.
    pub(crate) paused: Cell<bool>,
    pub(crate) resumed: Event,
    /// Number of pauses that have ended.
    pub(crate) resumes: Cell<u64>,
    /// Number of chains taken from a ring whose completion is not delivered yet.
    undelivered: Cell<usize>,
    idle: Event,
}

impl Shared {
    /// Asks the driver for a reset, once, and stops all queues.
    pub(crate) fn break_down(&self, index: u16, why: Malformed) {
        if !self.broken.replace(true) {
            executor::limited!(warn, queue = index, "a virtio device needs a reset: {}", why.0);
            self.interrupt.needs_reset();
        }
    }

    pub(crate) fn taken(&self) {
        self.undelivered.set(self.undelivered.get() + 1);
    }

    pub(crate) fn delivered(&self, chains: usize) {
        self.undelivered.set(self.undelivered.get() - chains);
        if self.undelivered.get() == 0 {
            self.idle.notify();
        }
    }

    async fn idle(&self) {
        while self.undelivered.get() > 0 {
            self.idle.wait().await;
        }
    }
}

struct Active {
    shared: Rc<Shared>,
    tasks: Vec<JoinHandle<()>>,
    /// Dropped at the end, which ends the task that owns this.
    end: RefCell<Option<OneSender<()>>>,
}

/// The place of the device that an activation starts. The executor's thread fills it, before it gets any
/// later call.
type Slot = Arc<OnceLock<Handle<Active>>>;

/// Returns what runs on this thread. `None` if it could not start, or has ended.
fn running(slot: &Slot) -> Option<Rc<Active>> {
    slot.get()?.get()
}

fn start<K: 'static>(
    slot: &Slot,
    activation: Activation,
    paused: bool,
    serve: impl FnOnce(Vec<Queue<K>>) -> io::Result<Vec<Task>>,
) {
    let Activation { memory, features, queues, interrupt } = activation;
    let shared = Rc::new(Shared {
        memory: Memory::new(memory),
        interrupt,
        indirect: has(features, VIRTIO_RING_F_INDIRECT_DESC),
        event_idx: has(features, VIRTIO_RING_F_EVENT_IDX),
        broken: Cell::new(false),
        silent: Cell::new(false),
        paused: Cell::new(paused),
        resumed: Event::new(),
        resumes: Cell::new(0),
        undelivered: Cell::new(0),
        idle: Event::new(),
    });
    let queues: io::Result<_> = queues.into_iter().map(|queue| Queue::new(shared.clone(), queue)).collect();
    let tasks = match queues.and_then(serve) {
        Ok(tasks) => tasks,
        Err(e) => {
            executor::limited!(warn, "a virtio device cannot start: {e}");
            return shared.interrupt.needs_reset();
        }
    };
    let (end, ended) = oneshot();
    let tasks = tasks.into_iter().map(spawn).collect();
    let active = Rc::new(Active { shared, tasks, end: RefCell::new(Some(end)) });
    slot.get_or_init(|| Handle::new(&active));
    spawn(async move {
        ended.await;
        drop(active);
    });
}

fn pause(slot: &Slot) -> impl Future<Output = ()> + use<> {
    let active = running(slot);
    if let Some(active) = &active {
        active.shared.paused.set(true);
    }
    async move {
        if let Some(active) = active {
            active.shared.idle().await;
        }
    }
}

fn resume(slot: &Slot) {
    if let Some(active) = running(slot) {
        let shared = &active.shared;
        if shared.paused.replace(false) {
            shared.resumes.set(shared.resumes.get() + 1);
        }
        shared.resumed.notify();
    }
}

fn reset(slot: &Slot) -> impl Future<Output = ()> + use<> {
    let active = running(slot);
    if let Some(active) = &active {
        active.shared.paused.set(true);
        active.shared.silent.set(true);
    }
    async move {
        if let Some(active) = active {
            active.shared.idle().await;
            for task in &active.tasks {
                task.cancel();
            }
            active.end.take();
        }
    }
}

/// Runs a device's queues on the thread of an executor. That thread handles all calls in their order.
/// Dropping the runner while it is active resets it without waiting.
pub(crate) struct Runner {
    remote: Remote,
    /// Present from a successful [`Runner::start`] to the next [`Runner::reset`].
    active: Option<Slot>,
    paused: bool,
}

impl Runner {
    /// Returns an inactive runner on the executor behind `remote`.
    pub fn new(remote: Remote) -> Self {
        Runner { remote, active: None, paused: false }
    }

    /// Returns true if it runs queues: from a successful [`Runner::start`] to the next [`Runner::reset`].
    pub fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// Makes a [`Queue`] of each queue of `activation`, in order, and runs the futures that `serve` makes of
    /// them. If `serve` fails, the reason is logged, and the driver is asked for a reset.
    ///
    /// # Errors
    /// `InvalidInput` if it is active already, or if rings lie outside guest memory.
    pub fn start<K: 'static>(
        &mut self,
        activation: Activation,
        serve: impl FnOnce(Vec<Queue<K>>) -> io::Result<Vec<Task>> + Send + 'static,
    ) -> io::Result<()> {
        let unfit = |queue: &crate::ReadyQueue| !queue.queue.is_valid(&*activation.memory);
        if self.is_active() || activation.queues.iter().any(unfit) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let (slot, paused) = (Slot::default(), self.paused);
        self.active = Some(slot.clone());
        self.remote.spawn(move || {
            start(&slot, activation, paused, serve);
            std::future::ready(())
        });
        Ok(())
    }

    /// Stops using the queues: blocks until nothing of the device uses guest memory any more. Does nothing
    /// if it is not active. Must not be called on the executor's own thread.
    pub fn reset(&mut self) {
        if let Some(slot) = self.active.take() {
            // An error means that the executor has ended, and all that was in flight with it.
            let _ = self.remote.call(move || reset(&slot)).wait();
        }
    }

    /// Stops taking chains. The reply comes when none is in flight or being delivered.
    pub fn pause(&mut self) -> Reply<()> {
        self.paused = true;
        let slot = self.active.clone().unwrap_or_default();
        self.remote.call(move || pause(&slot))
    }

    /// Takes chains again.
    pub fn resume(&mut self) {
        self.paused = false;
        if let Some(slot) = self.active.clone() {
            self.remote.spawn(move || {
                resume(&slot);
                std::future::ready(())
            });
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if let Some(slot) = self.active.take() {
            self.remote.spawn(move || reset(&slot));
        }
    }
}
