//! The tasks on the disk's thread: they serve the request, control and event queues (virtio 1.2, 5.6.6).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use block::disk::{Front, PIECE};
use block::{Buf, ErrorKind};
use executor::spawn;
use executor::sync::Event;
use virtio::{Chain, Malformed, Queue, Task};
use virtio_bindings::virtio_scsi::*;
use zerocopy::{FromBytes, IntoBytes};

use crate::cdrom::{Cdrom, Step};
use crate::config::{QUEUE_SIZE, Sizes};
use crate::request::{
    Answer, Command, EventInfo, Notifications, NotificationsReply, OURS, TaskManagement, is_ours,
};
use crate::sense::Sense;

/// Queue numbers (virtio 1.2, 5.6.2).
const CONTROL: u16 = 0;
const EVENT: u16 = 1;

/// Asynchronous notifications (virtio 1.2, 5.6.6.2): the medium has changed, or an eject was requested.
const MEDIA_CHANGE: u32 = 16;

/// Maximum number of bytes of one READ. The config space offers less (`max_sectors`), so a correct driver
/// stays below it. Longer reads are refused, as by a drive with a maximum transfer length (SBC-3, 6.6.4): a
/// read is in flight until its end, and a pause or a switch waits for it.
const MOST_READ: u64 = PIECE;

/// The ticket of a read, which is kept until the driver was notified.
pub(crate) type Keep<F> = Option<<F as Front>::Ticket>;

/// An active host.
struct Host<F: Front> {
    cdrom: Cdrom<F>,
    sizes: Arc<Sizes>,
    requests: Vec<Queue<Keep<F>>>,
    /// The tags of requests in flight, by their order.
    in_flight: RefCell<BTreeMap<u64, u64>>,
    taken: Cell<u64>,
    ended: Event,
    /// True if the driver has subscribed to media changes.
    subscribed: Cell<bool>,
}

/// Returns the tasks of a host with a drive.
pub(crate) fn tasks<F: Front>(
    drive: Rc<F>,
    sizes: Arc<Sizes>,
    serial: &str,
    queues: Vec<Queue<Keep<F>>>,
) -> Vec<Task> {
    let (mut special, mut requests) = (Vec::new(), Vec::new());
    for queue in queues {
        if queue.index() > EVENT { requests.push(queue) } else { special.push(queue) }
    }
    let count = requests.len();
    let host = Rc::new(Host {
        cdrom: Cdrom::new(drive, serial),
        sizes,
        requests,
        in_flight: RefCell::default(),
        taken: Cell::new(0),
        ended: Event::new(),
        subscribed: Cell::new(false),
    });
    let mut tasks: Vec<Task> = Vec::new();
    for queue in special {
        let host = host.clone();
        tasks.push(match queue.index() {
            CONTROL => Box::pin(host.control(queue)),
            _ => Box::pin(host.events(queue)),
        });
    }
    for number in 0..count {
        tasks.push(Box::pin(host.clone().commands(number)));
    }
    tasks
}

impl<F: Front> Host<F> {
    async fn commands(self: Rc<Self>, number: usize) {
        loop {
            self.requests[number].available().await;
            if let Some(chain) = self.requests[number].take() {
                self.begin(chain);
            }
        }
    }

    /// Does a command, or starts to.
    fn begin(self: &Rc<Self>, chain: Chain<Keep<F>>) {
        let Some((command, data, answer)) = Command::of(chain, &self.sizes) else { return };
        if !is_ours(&command.lun) {
            return answer.not_done(VIRTIO_SCSI_S_BAD_TARGET, None);
        }
        match self.cdrom.execute(&command.cdb) {
            Ok(Step::Done(bytes)) if bytes.len() > data.len() => {
                answer.not_done(VIRTIO_SCSI_S_OVERRUN, None);
            }
            Ok(Step::Done(bytes)) => {
                if answer.is_wanted() {
                    data.copy_from(&bytes);
                }
                answer.good(bytes.len(), None);
            }
            Ok(Step::Read { len, .. }) if len > data.len() as u64 => {
                answer.not_done(VIRTIO_SCSI_S_OVERRUN, None);
            }
            Ok(Step::Read { len, .. }) if len > MOST_READ => {
                answer.check_condition(Sense::INVALID_FIELD, None);
            }
            Ok(Step::Read { offset, len }) => {
                let number = self.taken.get();
                self.taken.set(number + 1);
                self.in_flight.borrow_mut().insert(number, command.tag);
                let host = self.clone();
                spawn(async move {
                    // The cast is safe: `len` is at most the length of `data`.
                    host.read(offset, data.slice(0..len as usize), answer).await;
                    host.in_flight.borrow_mut().remove(&number);
                    host.ended.notify();
                });
            }
            Err(sense) => answer.check_condition(sense, None),
        }
    }

    async fn read(&self, offset: u64, data: Buf, answer: Answer<Keep<F>>) {
        let disk = &self.cdrom.disk;
        let len = data.len();
        let mut ticket = disk.enter().await;
        F::carry(&mut ticket, len as u64);
        // From here on the medium is not exchanged.
        let checked = self.cdrom.blocks().and_then(|blocks| {
            let end = offset.checked_add(len as u64);
            let inside = end.is_some_and(|end| end <= blocks * crate::pages::BLOCK);
            if inside { Ok(()) } else { Err(Sense::BLOCK_OUT_OF_RANGE) }
        });
        let result = match checked {
            Ok(()) if len == 0 => Ok(()),
            Ok(()) => disk.read(&ticket, offset, data).await.map_err(|error| {
                tracing::debug!("a read of a medium failed: {error}");
                match error.kind() {
                    ErrorKind::OutOfRange => Sense::BLOCK_OUT_OF_RANGE,
                    _ => Sense::UNRECOVERED_READ,
                }
            }),
            Err(sense) => Err(sense),
        };
        match result {
            Ok(()) => answer.good(len, Some(ticket)),
            Err(sense) => answer.check_condition(sense, Some(ticket)),
        }
    }

    /// Waits until all requests that the driver sent before have ended, including those that are still in
    /// the ring. With `tag`, waits only for requests with that tag.
    async fn all_ended(self: &Rc<Self>, tag: Option<u64>) {
        for queue in &self.requests {
            // A driver has at most this many there, unless it adds some meanwhile.
            for _ in 0..QUEUE_SIZE {
                let Some(chain) = queue.next_there().await else { break };
                self.begin(chain);
            }
        }
        let until = self.taken.get();
        let is_awaited = |(_, other): (&u64, &u64)| tag.is_none_or(|tag| tag == *other);
        while self.in_flight.borrow().range(..until).any(is_awaited) {
            self.ended.wait().await;
        }
    }

    async fn control(self: Rc<Self>, queue: Queue<Keep<F>>) {
        loop {
            let Chain { readable, writable, token } = queue.next().await;
            // Copied once, and no more than the longest control request.
            let len = readable.len().min(size_of::<TaskManagement>());
            let bytes = readable.slice(0..len).to_vec();
            let kind = bytes.first_chunk().map(|kind| u32::from_le_bytes(*kind));
            let answer = match kind {
                Some(VIRTIO_SCSI_T_TMF) => match TaskManagement::ref_from_prefix(&bytes) {
                    Ok((request, _)) => Some(vec![self.manage(request).await as u8]),
                    Err(_) => None,
                },
                Some(VIRTIO_SCSI_T_AN_QUERY) => self.notifications(&bytes, false),
                Some(VIRTIO_SCSI_T_AN_SUBSCRIBE) => self.notifications(&bytes, true),
                _ => None,
            };
            match answer {
                Some(answer) if answer.len() <= writable.len() => {
                    if token.is_wanted() {
                        writable.copy_from(&answer);
                    }
                    token.complete(answer.len() as u32, None);
                }
                _ => token.refuse(Malformed("an invalid SCSI control request")),
            }
        }
    }

    /// Runs a task management function (virtio 1.2, 5.6.6.2; SAM-4, 7). Requests in flight are not aborted
    /// half way but awaited.
    async fn manage(self: &Rc<Self>, request: &TaskManagement) -> u32 {
        if !is_ours(&request.lun) {
            return VIRTIO_SCSI_S_INCORRECT_LUN;
        }
        match request.function.get() {
            VIRTIO_SCSI_T_TMF_ABORT_TASK => self.all_ended(Some(request.tag.get())).await,
            VIRTIO_SCSI_T_TMF_ABORT_TASK_SET | VIRTIO_SCSI_T_TMF_CLEAR_TASK_SET => {
                self.all_ended(None).await;
            }
            VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET | VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET => {
                self.all_ended(None).await;
                self.cdrom.reset();
            }
            VIRTIO_SCSI_T_TMF_QUERY_TASK
                if self.in_flight.borrow().values().any(|tag| request.tag == *tag) =>
            {
                return VIRTIO_SCSI_S_FUNCTION_SUCCEEDED;
            }
            VIRTIO_SCSI_T_TMF_QUERY_TASK_SET if !self.in_flight.borrow().is_empty() => {
                return VIRTIO_SCSI_S_FUNCTION_SUCCEEDED;
            }
            VIRTIO_SCSI_T_TMF_QUERY_TASK | VIRTIO_SCSI_T_TMF_QUERY_TASK_SET => {}
            // There is no auto contingent allegiance to clear.
            _ => return VIRTIO_SCSI_S_FUNCTION_REJECTED,
        }
        FUNCTION_COMPLETE
    }

    /// Serves a query of, or a subscription to, asynchronous notifications. Returns those requested that
    /// exist.
    fn notifications(&self, bytes: &[u8], subscribe: bool) -> Option<Vec<u8>> {
        let (request, _) = Notifications::ref_from_prefix(bytes).ok()?;
        let reply = |events: u32, response: u32| {
            let reply = NotificationsReply { events: events.into(), response: response as u8 };
            Some(reply.as_bytes().to_vec())
        };
        if !is_ours(&request.lun) {
            return reply(0, VIRTIO_SCSI_S_INCORRECT_LUN);
        }
        let actual = request.events.get() & MEDIA_CHANGE;
        if subscribe {
            self.subscribed.set(actual != 0);
        }
        reply(actual, VIRTIO_SCSI_S_OK)
    }

    /// Sends events to a driver that has subscribed. Several changes without a buffer in between are one
    /// event, which only says that there was a change.
    async fn events(self: Rc<Self>, queue: Queue<Keep<F>>) {
        loop {
            self.cdrom.moved().await;
            if !self.subscribed.get() {
                self.cdrom.announced();
                continue;
            }
            let Chain { writable, token, .. } = queue.next().await;
            self.cdrom.announced();
            let event = EventInfo {
                event: VIRTIO_SCSI_T_ASYNC_NOTIFY.into(),
                lun: OURS,
                reason: MEDIA_CHANGE.into(),
            };
            let event = event.as_bytes();
            if writable.len() < event.len() {
                token.refuse(Malformed("a buffer too short for a SCSI event"));
                continue;
            }
            if token.is_wanted() {
                writable.copy_from(event);
            }
            token.complete(event.len() as u32, None);
        }
    }
}

/// VIRTIO_SCSI_S_FUNCTION_COMPLETE (virtio 1.2, 5.6.6.2), which the bindings leave out.
const FUNCTION_COMPLETE: u32 = 0;
