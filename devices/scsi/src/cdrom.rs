//! The CD-ROM: its commands, its tray, and the reports of changes to the guest.

use std::cell::Cell;
use std::rc::Rc;

use block::disk::Front;
use block::tray::{Listener, Tray, TrayEvent};
use executor::sync::Event;

use crate::pages::{self, BLOCK, Drive, u16_at, u32_at};
use crate::request::CDB;
use crate::sense::Sense;

/// Operation codes (SPC-3, SBC-2, MMC-5).
mod opcode {
    pub const TEST_UNIT_READY: u8 = 0x00;
    pub const REQUEST_SENSE: u8 = 0x03;
    pub const READ_6: u8 = 0x08;
    pub const INQUIRY: u8 = 0x12;
    pub const MODE_SENSE_6: u8 = 0x1a;
    pub const START_STOP_UNIT: u8 = 0x1b;
    pub const PREVENT_ALLOW_MEDIUM_REMOVAL: u8 = 0x1e;
    pub const READ_CAPACITY_10: u8 = 0x25;
    pub const READ_10: u8 = 0x28;
    pub const SYNCHRONIZE_CACHE_10: u8 = 0x35;
    pub const READ_TOC: u8 = 0x43;
    pub const GET_CONFIGURATION: u8 = 0x46;
    pub const GET_EVENT_STATUS_NOTIFICATION: u8 = 0x4a;
    pub const READ_DISC_INFORMATION: u8 = 0x51;
    pub const MODE_SENSE_10: u8 = 0x5a;
    pub const READ_16: u8 = 0x88;
    pub const REPORT_LUNS: u8 = 0xa0;
    pub const READ_12: u8 = 0xa8;
    pub const MECHANISM_STATUS: u8 = 0xbd;
}
use opcode::*;

/// Media events of GET EVENT STATUS NOTIFICATION (MMC-5, table of media status events).
const NO_CHANGE: u8 = 0;
const EJECT_REQUEST: u8 = 1;
const NEW_MEDIUM: u8 = 2;
const MEDIUM_REMOVAL: u8 = 3;

/// The result of a command's first part.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The command is done and returns these data, no more than the driver has asked for.
    Done(Vec<u8>),
    /// `len` bytes at this offset must be read. They have not been checked to be on the medium.
    Read { offset: u64, len: u64 },
}

/// Changes that were not reported to the guest yet.
#[derive(Default)]
struct Unreported {
    /// Unit attentions (SPC-3, 4.5.6), in the order in which they are reported.
    reset: Cell<bool>,
    removed: Cell<bool>,
    changed: Cell<bool>,
    /// The event for GET EVENT STATUS NOTIFICATION.
    event: Cell<u8>,
    /// True if there is something to report on the event queue.
    announce: Cell<bool>,
    arrived: Event,
    /// True while the guest moves the tray itself.
    by_guest: Cell<bool>,
}

impl Unreported {
    fn closed_on_medium(&self) {
        self.changed.set(true);
        self.event.set(NEW_MEDIUM);
    }

    fn on_tray(&self, event: TrayEvent, has_medium: bool) {
        if self.by_guest.get() {
            return;
        }
        match event {
            TrayEvent::Opened => {
                self.removed.set(true);
                self.changed.set(false);
                self.event.set(MEDIUM_REMOVAL);
            }
            TrayEvent::Closed if has_medium => self.closed_on_medium(),
            TrayEvent::Closed => {}
            TrayEvent::EjectRequested => self.event.set(EJECT_REQUEST),
        }
        self.announce.set(true);
        self.arrived.notify();
    }

    fn attention(&self) -> Option<Sense> {
        let first = [
            (&self.reset, Sense::POWER_ON),
            (&self.removed, Sense::MEDIUM_REMOVED),
            (&self.changed, Sense::MEDIUM_CHANGED),
        ];
        first.into_iter().find_map(|(flag, sense)| flag.take().then_some(sense))
    }
}

/// The drive as the guest sees it, from DRIVER_OK to reset.
pub(crate) struct Cdrom<F> {
    pub(crate) disk: Rc<F>,
    serial: String,
    unreported: Rc<Unreported>,
    /// Held so that the tray keeps notifying us.
    _listener: Listener,
}

impl<F: Front> Cdrom<F> {
    pub(crate) fn new(disk: Rc<F>, serial: &str) -> Self {
        let unreported = Rc::<Unreported>::default();
        unreported.reset.set(true);
        let (noted, drive) = (unreported.clone(), disk.clone());
        let listener: Listener = Rc::new(move |event| noted.on_tray(event, drive.has_medium()));
        if let Some(tray) = disk.tray() {
            tray.listen(&listener);
        }
        Cdrom { disk, serial: serial.to_owned(), unreported, _listener: listener }
    }

    // A disk without a tray is a drive that never opens.
    fn is_open(&self) -> bool {
        self.disk.tray().is_some_and(Tray::is_open)
    }

    fn is_locked(&self) -> bool {
        self.disk.tray().is_some_and(Tray::is_locked)
    }

    fn set_locked(&self, locked: bool) {
        if let Some(tray) = self.disk.tray() {
            tray.set_locked(locked);
        }
    }

    /// Waits until something other than the guest has moved the tray, since the last [`Cdrom::announced`].
    pub(crate) async fn moved(&self) {
        while !self.unreported.announce.get() {
            self.unreported.arrived.wait().await;
        }
    }

    /// Marks all that has happened to the tray so far as reported.
    pub(crate) fn announced(&self) {
        self.unreported.announce.set(false);
    }

    /// Returns to the power-on state: unlocked, and with the reset to report.
    pub(crate) fn reset(&self) {
        self.set_locked(false);
        self.unreported.reset.set(true);
        self.unreported.removed.set(false);
        self.unreported.changed.set(false);
    }

    /// Returns the number of whole blocks of the medium.
    ///
    /// # Errors
    /// Not ready, if there is no medium that can be read.
    pub(crate) fn blocks(&self) -> Result<u64, Sense> {
        match (self.is_open(), self.disk.has_medium()) {
            (true, _) => Err(Sense::TRAY_OPEN),
            (false, false) => Err(Sense::NO_MEDIUM),
            (false, true) => Ok(self.disk.size() / BLOCK),
        }
    }

    /// Does a command, or its first part.
    ///
    /// # Errors
    /// The sense data that the command reports with CHECK CONDITION.
    pub(crate) fn execute(&self, cdb: &[u8; CDB]) -> Result<Step, Sense> {
        // These are served whatever has happened (SPC-3, 4.5.6; MMC-5, 4.1.6.1), and leave it to be
        // reported.
        let quiet = [INQUIRY, REPORT_LUNS, REQUEST_SENSE, GET_CONFIGURATION, GET_EVENT_STATUS_NOTIFICATION];
        if !quiet.contains(&cdb[0])
            && let Some(attention) = self.unreported.attention()
        {
            return Err(attention);
        }
        let drive = Drive {
            blocks: self.blocks().ok(),
            open: self.is_open(),
            locked: self.is_locked(),
            serial: &self.serial,
        };
        // The data of each command, with its allocation length.
        let (data, most) = match cdb[0] {
            TEST_UNIT_READY => {
                self.blocks()?;
                return Ok(Step::Done(Vec::new()));
            }
            // There is no write cache.
            SYNCHRONIZE_CACHE_10 => return Ok(Step::Done(Vec::new())),
            PREVENT_ALLOW_MEDIUM_REMOVAL => {
                self.prevent_removal(cdb[4])?;
                return Ok(Step::Done(Vec::new()));
            }
            START_STOP_UNIT => {
                self.start_stop(cdb[4])?;
                return Ok(Step::Done(Vec::new()));
            }
            READ_6 => {
                let count = if cdb[4] == 0 { 256 } else { u64::from(cdb[4]) };
                return Ok(read(u64::from(u32_at(cdb, 0) & 0x1f_ffff), count));
            }
            READ_10 => return Ok(read(u32_at(cdb, 2).into(), u16_at(cdb, 7).into())),
            READ_12 => return Ok(read(u32_at(cdb, 2).into(), u32_at(cdb, 6).into())),
            READ_16 => {
                let block = u64::from(u32_at(cdb, 2)) << 32 | u64::from(u32_at(cdb, 6));
                return Ok(read(block, u32_at(cdb, 10).into()));
            }
            REQUEST_SENSE => {
                let sense = self.unreported.attention().unwrap_or(Sense::NONE);
                (sense.bytes().to_vec(), cdb[4].into())
            }
            INQUIRY => (pages::inquiry(cdb, &drive)?, u16_at(cdb, 3).into()),
            MODE_SENSE_6 => (pages::mode_sense(cdb, false, &drive)?, cdb[4].into()),
            MODE_SENSE_10 => (pages::mode_sense(cdb, true, &drive)?, u16_at(cdb, 7).into()),
            READ_CAPACITY_10 => (pages::capacity(self.blocks()?), u32::MAX),
            READ_TOC => (pages::toc(cdb, self.blocks()?)?, u16_at(cdb, 7).into()),
            GET_CONFIGURATION => (pages::configuration(cdb, &drive)?, u16_at(cdb, 7).into()),
            GET_EVENT_STATUS_NOTIFICATION => {
                // An event that does not fit is kept.
                let most = u16_at(cdb, 7);
                let event = || if most > 4 { self.unreported.event.replace(NO_CHANGE) } else { NO_CHANGE };
                (pages::event_status(cdb, &drive, event)?, most.into())
            }
            READ_DISC_INFORMATION => {
                self.blocks()?;
                (pages::disc_information(cdb)?, u16_at(cdb, 7).into())
            }
            REPORT_LUNS => (pages::report_luns(cdb)?, u32_at(cdb, 6)),
            MECHANISM_STATUS => (pages::mechanism_status(&drive), u16_at(cdb, 8).into()),
            _ => return Err(Sense::INVALID_COMMAND),
        };
        let mut data = data;
        data.truncate(most as usize);
        Ok(Step::Done(data))
    }

    /// PREVENT ALLOW MEDIUM REMOVAL (MMC-5, 6.13).
    fn prevent_removal(&self, what: u8) -> Result<(), Sense> {
        const PREVENT: u8 = 1;
        const PERSISTENT: u8 = 2;
        if what & PERSISTENT != 0 {
            return Err(Sense::INVALID_FIELD);
        }
        // An open tray is never locked.
        self.set_locked(what & PREVENT != 0 && !self.is_open());
        Ok(())
    }

    /// START STOP UNIT (MMC-5, 6.42).
    fn start_stop(&self, what: u8) -> Result<(), Sense> {
        const START: u8 = 1;
        const LOAD_OR_EJECT: u8 = 2;
        const POWER_CONDITION: u8 = 0xf0;
        // There is no spindle to start or stop.
        if what & POWER_CONDITION != 0 || what & LOAD_OR_EJECT == 0 {
            return Ok(());
        }
        let open = what & START == 0;
        if open == self.is_open() {
            return Ok(());
        }
        if open && self.is_locked() {
            return Err(Sense::LOCKED);
        }
        self.unreported.by_guest.set(true);
        if let Some(tray) = self.disk.tray() {
            tray.set_open(open);
        }
        self.unreported.by_guest.set(false);
        if !open && self.disk.has_medium() {
            // Reports the medium that was put in while the tray was open.
            self.unreported.closed_on_medium();
        }
        Ok(())
    }
}

/// Returns the step of a READ of any length: its byte range.
fn read(block: u64, count: u64) -> Step {
    // A range that wraps lies on no medium.
    Step::Read { offset: block.saturating_mul(BLOCK), len: count * BLOCK }
}
