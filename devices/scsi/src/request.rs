//! Requests on the request queue (virtio 1.2, 5.6.6.1): from a chain to a command, and its response back.

use block::Buf;
use virtio::{Chain, Malformed, Token};
use virtio_bindings::virtio_scsi::*;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::config::Sizes;
use crate::sense::{self, Sense};

/// Number of bytes of a CDB that are read: the length of our longest command.
pub(crate) const CDB: usize = 16;

/// `struct virtio_scsi_req_cmd`, up to the CDB.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    lun: Lun,
    tag: U64,
    task_attr: u8,
    prio: u8,
    crn: u8,
}

/// `struct virtio_scsi_req_cmd_resp`, up to the sense data.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Response {
    sense_len: U32,
    resid: U32,
    status_qualifier: U16,
    status: u8,
    response: u8,
}

/// `struct virtio_scsi_ctrl_tmf`: a task management request.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct TaskManagement {
    pub(crate) kind: U32,
    pub(crate) function: U32,
    pub(crate) lun: Lun,
    pub(crate) tag: U64,
}

/// `struct virtio_scsi_ctrl_an`: a query of notifications, or a subscription to them.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Notifications {
    pub(crate) kind: U32,
    pub(crate) lun: Lun,
    pub(crate) events: U32,
}

/// The reply to [`Notifications`].
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct NotificationsReply {
    pub(crate) events: U32,
    pub(crate) response: u8,
}

/// `struct virtio_scsi_event`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct EventInfo {
    pub(crate) event: U32,
    pub(crate) lun: Lun,
    pub(crate) reason: U32,
}

/// Length of a request before its CDB.
const BEFORE_CDB: usize = size_of::<Header>();

/// Length of a response before its sense data.
const BEFORE_SENSE: usize = size_of::<Response>();

/// Statuses (SAM-4, 5.3.1).
const GOOD: u8 = 0;
const CHECK_CONDITION: u8 = 2;

/// A logical unit number as it is encoded.
pub(crate) type Lun = [u8; 8];

/// The only logical unit: target 0, number 0 (virtio 1.2, 5.6.6.1).
pub(crate) const OURS: Lun = [1, 0, 0x40, 0, 0, 0, 0, 0];

/// Returns true if `lun` is the only logical unit. Its number may be encoded by peripheral or flat
/// addressing (SAM-4, 4.6.7).
pub(crate) fn is_ours(lun: &Lun) -> bool {
    matches!(lun, [1, 0, 0 | 0x40, 0, 0, 0, 0, 0])
}

/// A command of the driver, copied.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) lun: Lun,
    pub(crate) tag: u64,
    /// The CDB, with zeros behind the driver's if that is shorter.
    pub(crate) cdb: [u8; CDB],
}

/// The destination of a command's result.
pub(crate) struct Answer<K: 'static> {
    response: Buf,
    sense_size: usize,
    /// Number of bytes that the driver has offered for the command to write or read.
    data_len: usize,
    token: Token<K>,
}

impl Command {
    /// Returns the command in `chain`, the room for its data, and the destination of its result. If there is
    /// no room for a CDB or for sense data, breaks the device and returns `None`.
    pub(crate) fn of<K>(chain: Chain<K>, sizes: &Sizes) -> Option<(Self, Buf, Answer<K>)> {
        let Chain { readable, writable, token } = chain;
        let (cdb_size, sense_size) = (sizes.cdb(), sizes.sense());
        let Some(out) = readable.len().checked_sub(BEFORE_CDB + cdb_size) else {
            token.refuse(Malformed("a SCSI request without a whole CDB"));
            return None;
        };
        let Some(into) = writable.len().checked_sub(BEFORE_SENSE + sense_size) else {
            token.refuse(Malformed("a SCSI request without room for its response"));
            return None;
        };
        let mut header = Header::new_zeroed();
        readable.copy_to(header.as_mut_bytes());
        let mut cdb = [0; CDB];
        let len = cdb_size.min(CDB);
        readable.slice(BEFORE_CDB..BEFORE_CDB + len).copy_to(&mut cdb[..len]);
        let command = Command { lun: header.lun, tag: header.tag.get(), cdb };
        let end = BEFORE_SENSE + sense_size;
        let data = writable.slice(end..writable.len());
        let response = writable.slice(0..end);
        Some((command, data, Answer { response, sense_size, data_len: out.max(into), token }))
    }
}

impl<K> Answer<K> {
    /// Returns true if the driver still waits for the result.
    pub(crate) fn is_wanted(&self) -> bool {
        self.token.is_wanted()
    }

    /// Completes a command that has succeeded, with `len` bytes of data.
    pub(crate) fn good(self, len: usize, keep: K) {
        self.give(VIRTIO_SCSI_S_OK, GOOD, None, len, keep);
    }

    /// Completes a command that has failed.
    pub(crate) fn check_condition(self, sense: Sense, keep: K) {
        self.give(VIRTIO_SCSI_S_OK, CHECK_CONDITION, Some(sense), 0, keep);
    }

    /// Completes a command that was not done.
    pub(crate) fn not_done(self, response: u32, keep: K) {
        self.give(response, GOOD, None, 0, keep);
    }

    fn give(self, response: u32, status: u8, sense: Option<Sense>, len: usize, keep: K) {
        let sense_len = sense.map_or(0, |_| sense::LENGTH.min(self.sense_size));
        if self.token.is_wanted() {
            // Always fits: a chain has at most 2^32 bytes, and the response is among them.
            let resid = u32::try_from(self.data_len - len.min(self.data_len)).unwrap_or(u32::MAX);
            let header = Response {
                sense_len: (sense_len as u32).into(),
                resid: resid.into(),
                status_qualifier: 0.into(),
                status,
                response: response as u8,
            };
            self.response.copy_from(header.as_bytes());
            if let Some(sense) = sense {
                let into = self.response.slice(BEFORE_SENSE..BEFORE_SENSE + sense_len);
                into.copy_from(&sense.bytes()[..sense_len]);
            }
        }
        // Data lie behind the whole response, so only with data is all of the response counted as written.
        let written = if len > 0 { self.response.len() + len } else { BEFORE_SENSE + sense_len };
        self.token.complete(u32::try_from(written).unwrap_or(u32::MAX), keep);
    }
}
