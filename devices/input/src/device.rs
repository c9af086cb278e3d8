//! The device and its two tasks.

use std::io;
use std::sync::Arc;

use executor::AsyncFd;
use virtio::{Chain, Malformed, Model, Negotiated, Queue, Task};
use virtio_bindings::virtio_ids::VIRTIO_ID_INPUT;
use vmm_sys_util::eventfd::EventFd;

use crate::codes::EV_LED;
use crate::config::{Choice, Config, Kind};
use crate::feed::Feed;

/// Maximum size of each queue, in descriptors.
pub const QUEUE_SIZE: u16 = 64;

/// Queue numbers (virtio 1.2, 5.8.2).
const EVENTS: u16 = 0;
const STATUS: u16 = 1;

/// A keyboard or a tablet. A reset forgets the events that wait.
pub struct VirtioInput {
    kind: Kind,
    choice: Choice,
    feed: Arc<Feed>,
}

impl VirtioInput {
    /// Returns a keyboard that gets its keys from `feed`.
    pub fn keyboard(feed: Arc<Feed>) -> Self {
        Self::new(Kind::Keyboard, feed)
    }

    /// Returns a tablet, with buttons and wheels, that gets its events from `feed`.
    pub fn tablet(feed: Arc<Feed>) -> Self {
        Self::new(Kind::Tablet, feed)
    }

    fn new(kind: Kind, feed: Arc<Feed>) -> Self {
        VirtioInput { kind, choice: Choice::default(), feed }
    }
}

impl Model for VirtioInput {
    const ID: u32 = VIRTIO_ID_INPUT;

    type Config = Config;
    type Keep = ();

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    fn config(&self) -> Config {
        self.choice.config(self.kind)
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        self.choice.write(offset, data);
    }

    fn on_activate(&self, _: &Negotiated) {
        self.feed.restart(true);
    }

    fn serve(self: Arc<Self>, _: Negotiated, queues: Vec<Queue>) -> io::Result<Vec<Task>> {
        let mut tasks: Vec<Task> = Vec::new();
        for queue in queues {
            match queue.index() {
                EVENTS => {
                    let feed = self.feed.clone();
                    let ready = AsyncFd::new(feed.ready().try_clone()?)?;
                    tasks.push(Box::pin(async move { send(&feed, &ready, &queue).await }));
                }
                STATUS => {
                    let lamps = (self.kind == Kind::Keyboard).then(|| self.feed.clone());
                    tasks.push(Box::pin(async move { take_status(lamps.as_deref(), &queue).await }));
                }
                _ => {}
            }
        }
        Ok(tasks)
    }

    fn on_reset(&self) {
        self.choice.clear();
        self.feed.restart(false);
    }
}

/// Carries events to the guest, one in each buffer, forever.
async fn send(feed: &Feed, ready: &AsyncFd<EventFd>, queue: &Queue) {
    loop {
        // Waits for an event first and takes a buffer only then, so that a pause has no chain to wait for.
        while !feed.is_waiting() {
            ready.readable().await;
            ready.clear_readable();
        }
        queue.available().await;
        let Some(Chain { readable, writable, token }) = queue.take() else { continue };
        if !readable.is_empty() || writable.len() < 8 {
            token.refuse(Malformed("a buffer for an input event with data, or without room"));
            continue;
        }
        // A reset may have taken the events meanwhile.
        let event = feed.take().map(|event| event.bytes());
        if let Some(bytes) = event {
            writable.copy_from(&bytes);
        }
        token.complete(event.map_or(0, |bytes| bytes.len() as u32), ());
    }
}

/// Takes what the driver reports, forever: the keyboard's lamps. Anything else is given back unread.
async fn take_status(keyboard: Option<&Feed>, queue: &Queue) {
    loop {
        let Chain { readable, writable, token } = queue.next().await;
        if !writable.is_empty() {
            token.refuse(Malformed("room in a buffer of an input device's status"));
            continue;
        }
        if let (Some(keyboard), 8) = (keyboard, readable.len()) {
            let mut bytes = [0; 8];
            readable.copy_to(&mut bytes);
            let [a, b, c, d, value @ ..] = bytes;
            if u16::from_le_bytes([a, b]) == EV_LED {
                keyboard.lamp(u16::from_le_bytes([c, d]), value != [0; 4]);
            }
        }
        token.complete(0, ());
    }
}
