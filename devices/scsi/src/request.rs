//! Requests on the request queue (virtio 1.2, 5.6.6.1): from a chain to a command, and its response back.

use std::mem::offset_of;

use block::Buf;
use virtio::{Chain, Malformed, Token};
use virtio_bindings::virtio_scsi::*;

use crate::config::Config;
use crate::sense::{self, Sense};

/// Number of bytes of a CDB that are read: the length of our longest command.
pub(crate) const CDB: usize = 16;

/// Offset of the CDB in a request.
const BEFORE_CDB: usize = offset_of!(virtio_scsi_cmd_req, cdb);

/// Offset of the sense data in a response.
const BEFORE_SENSE: usize = offset_of!(virtio_scsi_cmd_resp, sense);

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
    pub(crate) fn of<K>(chain: Chain<K>, config: &Config) -> Option<(Self, Buf, Answer<K>)> {
        let Chain { readable, writable, token } = chain;
        let (cdb_size, sense_size) = (config.cdb_size(), config.sense_size());
        let Some(out) = readable.len().checked_sub(BEFORE_CDB + cdb_size) else {
            token.refuse(Malformed("a SCSI request without a whole CDB"));
            return None;
        };
        let Some(into) = writable.len().checked_sub(BEFORE_SENSE + sense_size) else {
            token.refuse(Malformed("a SCSI request without room for its response"));
            return None;
        };
        let mut header = [0; BEFORE_CDB + CDB];
        readable.copy_to(&mut header[..BEFORE_CDB + cdb_size.min(CDB)]);
        let [l0, l1, l2, l3, l4, l5, l6, l7, t0, t1, t2, t3, t4, t5, t6, t7, ..] = header;
        let mut cdb = [0; CDB];
        cdb.copy_from_slice(&header[BEFORE_CDB..]);
        let command = Command {
            lun: [l0, l1, l2, l3, l4, l5, l6, l7],
            tag: u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]),
            cdb,
        };
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
        let mut bytes = [0; BEFORE_SENSE + sense::LENGTH];
        let sense_len = sense.map_or(0, |_| sense::LENGTH.min(self.sense_size));
        // Always fits: a chain has at most 2^32 bytes, and the response is among them.
        let resid = u32::try_from(self.data_len - len.min(self.data_len)).unwrap_or(u32::MAX);
        bytes[..4].copy_from_slice(&(sense_len as u32).to_le_bytes());
        bytes[4..8].copy_from_slice(&resid.to_le_bytes());
        bytes[offset_of!(virtio_scsi_cmd_resp, status)] = status;
        bytes[offset_of!(virtio_scsi_cmd_resp, response)] = response as u8;
        if let Some(sense) = sense {
            bytes[BEFORE_SENSE..].copy_from_slice(&sense.bytes());
        }
        if self.token.is_wanted() {
            self.response.copy_from(&bytes[..BEFORE_SENSE + sense_len]);
        }
        // Data lie behind the whole response, so only with data is all of the response counted as written.
        let written = if len > 0 { self.response.len() + len } else { BEFORE_SENSE + sense_len };
        self.token.complete(u32::try_from(written).unwrap_or(u32::MAX), keep);
    }
}
