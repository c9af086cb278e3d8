//! The tasks on the executor's thread: they carry frames in both directions (virtio 1.2, 5.1.6).

use std::future::pending;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use executor::{AsyncFd, yield_now};
use virtio::{Chain, Malformed, Negotiated, NoRoom, Queue, Task};
use virtio_bindings::virtio_net::{VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_STATUS};
use zerocopy::little_endian::U16;
use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::link::{Link, MOST_FRAME};

/// Queue numbers (virtio 1.2, 5.1.2).
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

/// `struct virtio_net_hdr`, before each frame. Without offloads only its number of buffers matters, and only
/// to the guest.
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    flags: u8,
    gso_type: u8,
    hdr_len: U16,
    gso_size: U16,
    csum_start: U16,
    csum_offset: U16,
    num_buffers: U16,
}

/// Size of a [`Header`] in bytes.
const HEADER: usize = size_of::<Header>();

/// Two addresses and a type: anything shorter is not an Ethernet frame.
const LEAST_FRAME: usize = 14;

/// An active device.
struct Interface {
    link: AsyncFd<Arc<Link>>,
    driver: Negotiated,
}

/// Returns the tasks of an active device.
///
/// # Errors
/// Fails if the event loop does not accept the link.
pub(crate) fn tasks(link: Arc<Link>, driver: Negotiated, queues: Vec<Queue>) -> io::Result<Vec<Task>> {
    let watched = AsyncFd::new(link);
    let link = watched.map_err(|e| io::Error::new(e.kind(), format!("watching a network link: {e}")))?;
    let interface = Rc::new(Interface { link, driver });
    let task = |queue: Queue| -> Option<Task> {
        let interface = interface.clone();
        match queue.index() {
            RECEIVE => Some(Box::pin(async move { interface.receive(&queue).await })),
            TRANSMIT => Some(Box::pin(async move { interface.transmit(&queue).await })),
            _ => None,
        }
    };
    Ok(queues.into_iter().filter_map(task).collect())
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
        let most = if self.driver.has(VIRTIO_NET_F_MRG_RXBUF) { queue.size() } else { 1 };
        let mut count = 0;
        while is_frame(len) {
            queue.available_beyond(count).await;
            match queue.room(HEADER + len, most) {
                Ok(room) => {
                    // No more chains than the ring has descriptors.
                    let num_buffers = (room.chains() as u16).into();
                    let header = Header { num_buffers, ..FromZeros::new_zeroed() };
                    return self.link().received(|frame| room.write(&[header.as_bytes(), frame]));
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
            if self.driver.has(VIRTIO_NET_F_STATUS) {
                self.driver.interrupt.config_changed();
            }
        }
    }
}
