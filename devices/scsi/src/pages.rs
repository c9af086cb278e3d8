//! The layout of the data that commands return: pure functions of the drive's state, after SPC-3 and MMC-5.
//! Numbers in commands and data are big-endian.

use crate::request::{CDB, Lun};
use crate::sense::Sense;

/// Size of a block in bytes (MMC-5: user data of a mode 1 sector).
pub(crate) const BLOCK: u64 = 2048;

/// Number of blocks of the longest CD: 80 minutes of 75 frames a second. A larger medium is a DVD.
const CD_BLOCKS: u64 = 80 * 60 * 75;

/// Peripheral device type of CD and DVD devices (SPC-3, 6.4.2).
const CD_DVD: u8 = 5;

/// T10 vendor identification, eight characters, and product identification, sixteen.
const VENDOR: &[u8; 8] = b"MILLRACE";
const PRODUCT: &[u8; 16] = b"CD-ROM          ";

/// Profiles (MMC-5, 5.3.1).
const CD_ROM: u16 = 0x0008;
const DVD_ROM: u16 = 0x0010;

/// The data track and the lead-out area in a table of contents.
const TRACK: u8 = 1;
const LEAD_OUT: u8 = 0xaa;

/// Number of frames before block 0, in addresses of minutes, seconds and frames (MMC-5, table of LBA to
/// MSF).
const PREGAP: u64 = 150;

pub(crate) type Page = Result<Vec<u8>, Sense>;

/// The state of the drive that pages report.
pub(crate) struct Drive<'a> {
    /// Number of blocks of the medium; `None` without one that can be read.
    pub(crate) blocks: Option<u64>,
    pub(crate) open: bool,
    pub(crate) locked: bool,
    pub(crate) serial: &'a str,
}

pub(crate) fn u16_at(cdb: &[u8; CDB], at: usize) -> u16 {
    u16::from_be_bytes([cdb[at], cdb[at + 1]])
}

pub(crate) fn u32_at(cdb: &[u8; CDB], at: usize) -> u32 {
    u32::from_be_bytes([cdb[at], cdb[at + 1], cdb[at + 2], cdb[at + 3]])
}

/// Returns a number of blocks, or of the last one, in 32 bits.
fn blocks32(blocks: u64) -> [u8; 4] {
    u32::try_from(blocks).unwrap_or(u32::MAX).to_be_bytes()
}

/// Sets the two-byte length field at the start to the length of what follows it.
fn with_length16(mut page: Vec<u8>) -> Vec<u8> {
    let len = (page.len() - 2) as u16;
    page[..2].copy_from_slice(&len.to_be_bytes());
    page
}

/// INQUIRY (SPC-3, 6.4), and its vital product data (SPC-3, 7.6).
pub(crate) fn inquiry(cdb: &[u8; CDB], drive: &Drive) -> Page {
    let (vital, page) = (cdb[1] & 1 != 0, cdb[2]);
    if cdb[1] & !1 != 0 || (!vital && page != 0) {
        return Err(Sense::INVALID_FIELD);
    }
    if !vital {
        const REMOVABLE: u8 = 0x80;
        const SPC_3: u8 = 5;
        const RESPONSE_FORMAT: u8 = 2;
        const COMMAND_QUEUES: u8 = 2;
        // The fifth byte is the number of bytes behind it.
        let mut data = vec![CD_DVD, REMOVABLE, SPC_3, RESPONSE_FORMAT, 31, 0, 0, COMMAND_QUEUES];
        data.extend(VENDOR);
        data.extend(PRODUCT);
        data.extend(b"1.0 ");
        return Ok(data);
    }
    const SUPPORTED: u8 = 0;
    const SERIAL: u8 = 0x80;
    const IDENTIFICATION: u8 = 0x83;
    let serial = drive.serial.as_bytes();
    let content = match page {
        SUPPORTED => vec![SUPPORTED, SERIAL, IDENTIFICATION],
        SERIAL => serial.to_vec(),
        IDENTIFICATION => {
            const ASCII: u8 = 2;
            const T10_VENDOR: u8 = 1;
            // At most 32 characters of a serial number, and eight of the vendor.
            let mut designator = vec![ASCII, T10_VENDOR, 0, (VENDOR.len() + serial.len()) as u8];
            designator.extend(VENDOR);
            designator.extend(serial);
            designator
        }
        _ => return Err(Sense::INVALID_FIELD),
    };
    let mut data = vec![CD_DVD, page, 0, content.len() as u8];
    data.extend(content);
    Ok(data)
}

/// REPORT LUNS (SPC-3, 6.21): one, or none if only well-known ones are wanted.
pub(crate) fn report_luns(cdb: &[u8; CDB]) -> Page {
    /// Shorter allocation lengths are refused.
    const LEAST: u32 = 16;
    let luns: &[Lun] = match cdb[2] {
        0 | 2 => &[[0; 8]],
        1 => &[],
        _ => return Err(Sense::INVALID_FIELD),
    };
    if u32_at(cdb, 6) < LEAST {
        return Err(Sense::INVALID_FIELD);
    }
    let mut data = vec![0, 0, 0, size_of_val(luns) as u8, 0, 0, 0, 0];
    data.extend(luns.iter().flatten());
    Ok(data)
}

/// READ CAPACITY (MMC-5, 6.28): the last block, and the size of one.
pub(crate) fn capacity(blocks: u64) -> Vec<u8> {
    [blocks32(blocks.saturating_sub(1)), (BLOCK as u32).to_be_bytes()].concat()
}

/// MODE SENSE (SPC-3, 6.9 and 6.10). `long` is true for the command of ten bytes.
pub(crate) fn mode_sense(cdb: &[u8; CDB], long: bool, drive: &Drive) -> Page {
    const CHANGEABLE: u8 = 1;
    const SAVED: u8 = 3;
    const ALL: u8 = 0x3f;
    const ALL_SUBPAGES: u8 = 0xff;
    let (control, page) = (cdb[2] >> 6, cdb[2] & 0x3f);
    if control == SAVED {
        return Err(Sense::SAVING_NOT_SUPPORTED);
    }
    if cdb[3] != 0 && cdb[3] != ALL_SUBPAGES {
        return Err(Sense::INVALID_FIELD);
    }
    let mut data = vec![0; if long { 8 } else { 4 }];
    let header = data.len();
    for (number, mut content) in [recovery_page(), capabilities_page(drive)] {
        if page == number || page == ALL {
            if control == CHANGEABLE {
                content.fill(0);
            }
            data.extend([number, content.len() as u8]);
            data.extend(content);
        }
    }
    if data.len() == header {
        return Err(Sense::INVALID_FIELD);
    }
    if long {
        return Ok(with_length16(data));
    }
    data[0] = data.len() as u8 - 1;
    Ok(data)
}

/// Read error recovery (MMC-5, 7.3): the drive does none.
fn recovery_page() -> (u8, Vec<u8>) {
    (0x01, vec![0; 10])
}

/// C/DVD capabilities and mechanical status (MMC-3, 6.3.11; legacy in MMC-5, E.3).
fn capabilities_page(drive: &Drive) -> (u8, Vec<u8>) {
    /// Reads CD-R, CD-RW and DVD-ROM.
    const READS: u8 = 0x0b;
    const MULTI_SESSION: u8 = 0x40;
    const CAN_LOCK: u8 = 0x01;
    const LOCKED: u8 = 0x02;
    const CAN_EJECT: u8 = 0x08;
    const TRAY: u8 = 1 << 5;
    /// Speed in kilobytes per second, of a 50x drive.
    const SPEED: [u8; 2] = 8800_u16.to_be_bytes();
    let mut page = vec![0; 20];
    page[0] = READS;
    page[2] = MULTI_SESSION;
    page[4] = CAN_LOCK | CAN_EJECT | TRAY | if drive.locked { LOCKED } else { 0 };
    page[6..8].copy_from_slice(&SPEED);
    page[12..14].copy_from_slice(&SPEED);
    (0x2a, page)
}

/// READ TOC (MMC-5, 6.31): one data track in one session.
pub(crate) fn toc(cdb: &[u8; CDB], blocks: u64) -> Page {
    const CONTENTS: u8 = 0;
    const SESSIONS: u8 = 1;
    /// ADR 1 (position data in the Q sub-channel) and control 4 (a data track, digital copy prohibited).
    const DATA: u8 = 0x14;
    let (minutes, from) = (cdb[1] & 2 != 0, cdb[6]);
    // Old drivers give the format in the last byte (MMC-1).
    let format = match cdb[2] & 0xf {
        0 => cdb[9] >> 6,
        format => format,
    };
    let address = |block: u64| {
        if !minutes {
            return blocks32(block);
        }
        let frames = block + PREGAP;
        let minute = u8::try_from(frames / 75 / 60).unwrap_or(u8::MAX);
        [0, minute, (frames / 75 % 60) as u8, (frames % 75) as u8]
    };
    // Length, first and last track or session.
    let mut data = vec![0, 0, 1, 1];
    let mut add = |track: u8, block: u64| {
        data.extend([0, DATA, track, 0]);
        data.extend(address(block));
    };
    match format {
        CONTENTS => {
            if from > TRACK && from != LEAD_OUT {
                return Err(Sense::INVALID_FIELD);
            }
            if from <= TRACK {
                add(TRACK, 0);
            }
            add(LEAD_OUT, blocks);
        }
        SESSIONS => add(TRACK, 0),
        _ => return Err(Sense::INVALID_FIELD),
    }
    Ok(with_length16(data))
}

/// GET CONFIGURATION (MMC-5, 6.6): the features of a drive that only reads.
pub(crate) fn configuration(cdb: &[u8; CDB], drive: &Drive) -> Page {
    const ALL: u8 = 0;
    const CURRENT: u8 = 1;
    const ONE: u8 = 2;
    let (wanted, from) = (cdb[1] & 3, u16_at(cdb, 2));
    if wanted > ONE {
        return Err(Sense::INVALID_FIELD);
    }
    let profile = drive.blocks.map(|blocks| if blocks > CD_BLOCKS { DVD_ROM } else { CD_ROM });
    let listed = |number: u16| {
        let [high, low] = number.to_be_bytes();
        [high, low, u8::from(profile == Some(number)), 0]
    };
    /// Bits of a feature's third byte.
    const IS_CURRENT: u8 = 1;
    const PERSISTENT: u8 = 2;
    const VERSION_2: u8 = 2 << 2;
    const BOTH: u8 = IS_CURRENT | PERSISTENT;
    let readable = u8::from(profile.is_some());
    let [b0, b1, b2, b3] = (BLOCK as u32).to_be_bytes();
    // Number, bits, content.
    let features: [(u16, u8, Vec<u8>); 4] = [
        // Profile list (5.3.1).
        (0x0000, BOTH, [listed(DVD_ROM), listed(CD_ROM)].concat()),
        // Core (5.3.2): the interface is SCSI, and DBE (device busy events) is set, as it must be.
        (0x0001, BOTH | VERSION_2, vec![0, 0, 0, 1, 1, 0, 0, 0]),
        // Removable medium (5.3.4): a tray that the host can eject and lock.
        (0x0003, BOTH, vec![1 << 5 | 0x08 | 0x01, 0, 0, 0]),
        // Random readable (5.3.6): the block size, and one block at a time.
        (0x0010, readable * IS_CURRENT, vec![b0, b1, b2, b3, 0, 1, 0, 0]),
    ];
    let mut data = vec![0; 6];
    data.extend(profile.unwrap_or(0).to_be_bytes());
    for (number, bits, content) in features {
        let is_wanted = match wanted {
            ALL => number >= from,
            CURRENT => number >= from && bits & IS_CURRENT != 0,
            _ => number == from,
        };
        if is_wanted {
            data.extend(number.to_be_bytes());
            data.extend([bits, content.len() as u8]);
            data.extend(content);
        }
    }
    let len = (data.len() - 4) as u32;
    data[..4].copy_from_slice(&len.to_be_bytes());
    Ok(data)
}

/// Number of the only class of events that is supported, media (MMC-5, 6.7).
pub(crate) const MEDIA_CLASS: u8 = 4;

/// GET EVENT STATUS NOTIFICATION (MMC-5, 6.7), polled only. Calls `event` if the class media is requested.
pub(crate) fn event_status(cdb: &[u8; CDB], drive: &Drive, event: impl FnOnce() -> u8) -> Page {
    const POLLED: u8 = 1;
    const NOTHING_AVAILABLE: u8 = 0x80;
    const PRESENT: u8 = 2;
    if cdb[1] & POLLED == 0 {
        return Err(Sense::INVALID_FIELD);
    }
    let classes = 1 << MEDIA_CLASS;
    if cdb[4] & classes == 0 {
        return Ok(vec![0, 2, NOTHING_AVAILABLE, classes]);
    }
    let status = u8::from(drive.open) | if drive.blocks.is_some() { PRESENT } else { 0 };
    Ok(vec![0, 6, MEDIA_CLASS, classes, event(), status, 0, 0])
}

/// READ DISC INFORMATION (MMC-5, 6.27): one complete session on a finalized disc.
pub(crate) fn disc_information(cdb: &[u8; CDB]) -> Page {
    const COMPLETE: u8 = 0x0e;
    /// The use of the disc is not restricted.
    const UNRESTRICTED: u8 = 0x20;
    if cdb[1] & 7 != 0 {
        return Err(Sense::INVALID_FIELD);
    }
    let mut data = vec![0; 34];
    // First track, sessions, first and last track of the last session.
    data[2..8].copy_from_slice(&[COMPLETE, 1, 1, 1, 1, UNRESTRICTED]);
    Ok(with_length16(data))
}

/// MECHANISM STATUS (MMC-5, 6.12): a drive without a changer.
pub(crate) fn mechanism_status(drive: &Drive) -> Vec<u8> {
    const DOOR_OPEN: u8 = 0x10;
    vec![0, if drive.open { DOOR_OPEN } else { 0 }, 0, 0, 0, 0, 0, 0]
}
