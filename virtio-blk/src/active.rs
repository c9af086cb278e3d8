//! What lives on the disk's thread between DRIVER_OK and reset.
//!
//! Other threads name it by the device's number: it is not `Send`, and a task of the disk's executor owns
//! it, so that it ends with that executor at the latest. Each function below does its work when it is
//! called and leaves only the waiting to its future, so calls from other threads act in their order.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use executor::sync::{Event, OneSender, oneshot};
use executor::{JoinHandle, spawn};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_device::{Activation, Interrupt};

use crate::backend::{Backend, Handle};
use crate::chain::{Malformed, Memory};
use crate::config::{Config, has};
use crate::ring::Ring;

thread_local! {
    static ACTIVE: RefCell<HashMap<u64, Weak<dyn Any>>> = RefCell::default();
}

/// What all queues of an active device share.
pub(crate) struct Shared<B> {
    pub(crate) disk: Rc<B>,
    pub(crate) memory: Memory,
    pub(crate) config: Arc<Config>,
    pub(crate) interrupt: Arc<dyn Interrupt>,
    /// VIRTIO_RING_F_INDIRECT_DESC was negotiated.
    pub(crate) indirect: bool,
    /// VIRTIO_RING_F_EVENT_IDX was negotiated.
    pub(crate) event_idx: bool,
    /// A ring or chain was malformed: nothing is taken from any ring any more.
    pub(crate) broken: Cell<bool>,
    /// The driver has asked for a reset: it hears nothing of what ends now.
    pub(crate) silent: Cell<bool>,
    /// Requests taken from a ring whose completion is not delivered yet.
    undelivered: Cell<usize>,
    idle: Event,
}

impl<B> Shared<B> {
    /// Asks the driver for a reset, once, and stops all queues.
    pub(crate) fn break_down(&self, index: u16, why: Malformed) {
        if !self.broken.replace(true) {
            tracing::warn!(queue = index, "virtio-blk needs a reset: {}", why.0);
            self.interrupt.needs_reset();
        }
    }

    pub(crate) fn taken(&self) {
        self.undelivered.set(self.undelivered.get() + 1);
    }

    pub(crate) fn delivered(&self, requests: usize) {
        self.undelivered.set(self.undelivered.get() - requests);
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

struct Active<B: Backend> {
    shared: Rc<Shared<B>>,
    rings: Vec<Rc<Ring<B>>>,
    /// The tasks that take requests from the rings; none while paused. They hold nothing across an
    /// `.await` that would be missed, so to pause is to cancel them.
    takers: RefCell<Vec<JoinHandle<()>>>,
    /// Dropped at the end, which ends the task that owns this.
    end: RefCell<Option<OneSender<()>>>,
}

impl<B: Backend> Active<B> {
    fn find(id: u64) -> Option<Rc<Self>> {
        let found = ACTIVE.with(|all| all.borrow().get(&id)?.upgrade())?;
        found.downcast().ok()
    }

    fn resume(&self) {
        let mut takers = self.takers.borrow_mut();
        if takers.is_empty() {
            takers.extend(self.rings.iter().map(|ring| spawn(ring.clone().take_requests())));
        }
    }

    fn pause(&self) {
        for taker in self.takers.take() {
            taker.cancel();
        }
    }
}

/// Starts to process the queues, unless `paused`. Where that cannot be, the device needs a reset.
pub(crate) fn start<H: Handle>(
    id: u64,
    handle: &H,
    config: Arc<Config>,
    activation: Activation,
    paused: bool,
) {
    let Activation { memory, features, queues, interrupt } = activation;
    let Some(disk) = handle.get() else {
        tracing::warn!("virtio-blk needs a reset: its disk is gone");
        return interrupt.needs_reset();
    };
    let shared = Rc::new(Shared {
        disk,
        memory: Memory::new(memory),
        config,
        interrupt,
        indirect: has(features, VIRTIO_RING_F_INDIRECT_DESC),
        event_idx: has(features, VIRTIO_RING_F_EVENT_IDX),
        broken: Cell::new(false),
        silent: Cell::new(false),
        undelivered: Cell::new(0),
        idle: Event::new(),
    });
    let rings: std::io::Result<_> =
        queues.into_iter().map(|queue| Ring::new(shared.clone(), queue).map(Rc::new)).collect();
    let rings = match rings {
        Ok(rings) => rings,
        Err(e) => {
            tracing::warn!("virtio-blk needs a reset: watching a queue's kicks: {e}");
            return shared.interrupt.needs_reset();
        }
    };
    let (end, ended) = oneshot();
    let active = Rc::new(Active { shared, rings, takers: RefCell::default(), end: RefCell::new(Some(end)) });
    if !paused {
        active.resume();
    }
    let any: Rc<dyn Any> = active.clone();
    ACTIVE.with(|all| all.borrow_mut().insert(id, Rc::downgrade(&any)));
    spawn(async move {
        ended.await;
        drop(active);
    });
}

/// Stops to take requests. The future ends when none is in flight or being delivered.
pub(crate) fn pause<B: Backend>(id: u64) -> impl Future<Output = ()> {
    let active = Active::<B>::find(id);
    if let Some(active) = &active {
        active.pause();
    }
    async move {
        if let Some(active) = active {
            active.shared.idle().await;
        }
    }
}

/// Takes requests again.
pub(crate) fn resume<B: Backend>(id: u64) {
    if let Some(active) = Active::<B>::find(id) {
        active.resume();
    }
}

/// Stops to use the queues. The future ends when nothing of the device uses guest memory any more.
pub(crate) fn reset<B: Backend>(id: u64) -> impl Future<Output = ()> {
    let active = Active::<B>::find(id);
    if let Some(active) = &active {
        // Nobody else finds it any more: the driver's next DRIVER_OK may come before it is dropped.
        ACTIVE.with(|all| all.borrow_mut().remove(&id));
        active.pause();
        active.shared.silent.set(true);
    }
    async move {
        if let Some(active) = active {
            active.shared.idle().await;
            active.end.take();
        }
    }
}
