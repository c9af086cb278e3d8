//! The tasks on the executor's thread: they carry frames in both directions (virtio 1.2, 5.1.6).

use std::future::pending;
use std::io;
use std::mem::offset_of;
use std::rc::Rc;
use std::sync::Arc;

use executor::{AsyncFd, yield_now};
use virtio::{Activation, Interrupt};
use virtio::{Chain, Malformed, NoRoom, Queue, Task, has};
use virtio_bindings::virtio_net::{VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_STATUS, virtio_net_hdr_v1};

use crate::link::{Link, MOST_FRAME};

/// Queue numbers (virtio 1.2, 5.1.2).
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

/// Size of the header before each frame. Without offloads only its number of buffers matters, and only to
/// the guest.
const HEADER: usize = size_of::<virtio_net_hdr_v1>();
const NUM_BUFFERS: usize = offset_of!(virtio_net_hdr_v1, num_buffers);

/// Two addresses and a type: anything shorter is not an Ethernet frame.
const LEAST_FRAME: usize = 14;

/// The features that were negotiated with the driver, and the way to interrupt it.
pub(crate) struct Driver {
    /// True if a frame may be spread over several chains.
    mergeable: bool,
    /// True if the driver reads the link's status.
    status: bool,
    interrupt: Arc<dyn Interrupt>,
}

impl Driver {
    pub(crate) fn of(activation: &Activation) -> Self {
        Driver {
            mergeable: has(activation.features, VIRTIO_NET_F_MRG_RXBUF),
            status: has(activation.features, VIRTIO_NET_F_STATUS),
            interrupt: activation.interrupt.clone(),
        }
    }
}

/// An active device.
struct Interface {
    link: AsyncFd<Arc<Link>>,
    driver: Driver,
}

/// Returns the tasks of an active device, or `None` if the event loop does not accept the link.
pub(crate) fn tasks(link: Arc<Link>, driver: Driver, queues: Vec<Queue>) -> Option<Vec<Task>> {
    let link =
        AsyncFd::new(link).inspect_err(|e| executor::limited!(warn, "watching a network link: {e}")).ok()?;
    let interface = Rc::new(Interface { link, driver });
    let task = |queue: Queue| -> Option<Task> {
        let interface = interface.clone();
        match queue.index() {
            RECEIVE => Some(Box::pin(async move { interface.receive(&queue).await })),
            TRANSMIT => Some(Box::pin(async move { interface.transmit(&queue).await })),
            _ => None,
        }
    };
    Some(queues.into_iter().filter_map(task).collect())
}

fn is_frame(len: usize) -> bool {
    (LEAST_FRAME..=MOST_FRAME).contains(&len)
}

impl Interface {
    fn link(&self) -> &Link {
        self.link.get()
    }

    /// Carries frames of the link to the guest until the link is gone.
    async fn receive(&self, queue: &Queue) {
        loop {
            if let Err(e) = Link::receive(&self.link).await {
                self.has_gone(&e);
                return pending().await;
            }
            self.deliver(queue).await;
            self.link().drop_received();
        }
    }

    /// Gives the received frame to the guest, once there is room for it. A frame for which there can never
    /// be room is dropped.
    async fn deliver(&self, queue: &Queue) {
        let len = self.link().received(<[u8]>::len);
        let most = if self.driver.mergeable { queue.size() } else { 1 };
        let mut count = 0;
        while is_frame(len) {
            queue.available_beyond(count).await;
            match queue.room(HEADER + len, most) {
                Ok(room) => {
                    let mut header = [0; HEADER];
                    // No more chains than the ring has descriptors.
                    let chains = room.chains() as u16;
                    header[NUM_BUFFERS..].copy_from_slice(&chains.to_le_bytes());
                    return self.link().received(|frame| room.write(&[&header, frame]));
                }
                Err(NoRoom::NotEnough(there)) => count = there,
                Err(NoRoom::CannotFit) => break,
            }
        }
        tracing::debug!("a frame of {len} bytes is dropped: the guest cannot take it");
        // A link that sends nothing else must not occupy the thread.
        yield_now().await;
    }

    /// Carries frames of the guest to the link. A chain is given back before its frame is sent, so that
    /// nobody waits for a link that takes no frames.
    async fn transmit(&self, queue: &Queue) {
        loop {
            if let Err(e) = Link::send(&self.link).await {
                self.has_gone(&e);
            }
            let Chain { readable, writable, token } = queue.next().await;
            if !writable.is_empty() || readable.len() < HEADER {
                token.refuse(Malformed("a frame to send without a whole header, or with room"));
                continue;
            }
            let frame = readable.slice(HEADER..readable.len());
            if is_frame(frame.len()) {
                self.link().put(&frame);
            }
            token.complete(0, ());
        }
    }

    /// Marks the link as gone, and reports that once, to the log and to the guest.
    fn has_gone(&self, e: &io::Error) {
        if self.link().end() {
            executor::limited!(warn, "network {}: {e}; the guest's link is down", self.link().name());
            if self.driver.status {
                self.driver.interrupt.config_changed();
            }
        }
    }
}
