//! Sense data: the reasons why commands fail (SPC-3, 4.5).

/// Length of sense data in the fixed format, in bytes (SPC-3, 4.5.3).
pub(crate) const LENGTH: usize = 18;

/// Fixed format, current error (SPC-3, 4.5.1).
const CURRENT: u8 = 0x70;

const NOT_READY: u8 = 2;
const MEDIUM_ERROR: u8 = 3;
const ILLEGAL_REQUEST: u8 = 5;
const UNIT_ATTENTION: u8 = 6;

/// A sense key, and an additional sense code with its qualifier (SPC-3, annex D).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sense {
    key: u8,
    code: u8,
    qualifier: u8,
}

const fn sense(key: u8, code: u8, qualifier: u8) -> Sense {
    Sense { key, code, qualifier }
}

impl Sense {
    pub(crate) const NONE: Sense = sense(0, 0, 0);
    /// The drive is closed and empty.
    pub(crate) const NO_MEDIUM: Sense = sense(NOT_READY, 0x3a, 1);
    pub(crate) const TRAY_OPEN: Sense = sense(NOT_READY, 0x3a, 2);
    pub(crate) const UNRECOVERED_READ: Sense = sense(MEDIUM_ERROR, 0x11, 0);
    pub(crate) const INVALID_COMMAND: Sense = sense(ILLEGAL_REQUEST, 0x20, 0);
    pub(crate) const BLOCK_OUT_OF_RANGE: Sense = sense(ILLEGAL_REQUEST, 0x21, 0);
    /// Invalid field in CDB.
    pub(crate) const INVALID_FIELD: Sense = sense(ILLEGAL_REQUEST, 0x24, 0);
    pub(crate) const SAVING_NOT_SUPPORTED: Sense = sense(ILLEGAL_REQUEST, 0x39, 0);
    /// Medium removal prevented.
    pub(crate) const LOCKED: Sense = sense(ILLEGAL_REQUEST, 0x53, 2);
    pub(crate) const MEDIUM_CHANGED: Sense = sense(UNIT_ATTENTION, 0x28, 0);
    pub(crate) const POWER_ON: Sense = sense(UNIT_ATTENTION, 0x29, 0);
    pub(crate) const MEDIUM_REMOVED: Sense = sense(UNIT_ATTENTION, 0x3a, 0);

    /// Returns the sense data in the fixed format.
    pub(crate) fn bytes(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[0] = CURRENT;
        bytes[2] = self.key;
        // Number of bytes behind the eighth.
        bytes[7] = LENGTH as u8 - 8;
        bytes[12] = self.code;
        bytes[13] = self.qualifier;
        bytes
    }
}
