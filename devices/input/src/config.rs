//! The config space (virtio 1.2, 5.8.4): the driver chooses a piece of the device's description by `select`
//! and `subsel`, and reads it.

use std::sync::atomic::{AtomicU8, Ordering};

use zerocopy::{Immutable, IntoBytes};

use crate::codes::{
    ABS_MAX, ABS_X, ABS_Y, BTN_EXTRA, BTN_LEFT, BTN_MIDDLE, BTN_RIGHT, BTN_SIDE, EV_ABS, EV_KEY, EV_LED,
    EV_REL, LAST_KEY, LED_CAPSL, LED_NUML, LED_SCROLLL, REL_HWHEEL, REL_WHEEL,
};

/// The pieces (virtio 1.2, 5.8.2, `enum virtio_input_config_select`).
const ID_NAME: u8 = 1;
const ID_DEVIDS: u8 = 3;
const EV_BITS: u8 = 0x11;
const ABS_INFO: u8 = 0x12;

/// BUS_VIRTUAL of include/uapi/linux/input.h.
const BUS_VIRTUAL: u16 = 6;

/// The buttons of a tablet.
pub(crate) const BUTTONS: [u16; 5] = [BTN_LEFT, BTN_RIGHT, BTN_MIDDLE, BTN_SIDE, BTN_EXTRA];

/// The kind of an input device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Keyboard,
    Tablet,
}

/// `struct virtio_input_config`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub struct Config {
    select: u8,
    subsel: u8,
    size: u8,
    reserved: [u8; 5],
    data: [u8; 128],
}

/// The driver's choice of a piece.
#[derive(Default)]
pub(crate) struct Choice {
    select: AtomicU8,
    subsel: AtomicU8,
}

impl Choice {
    /// Takes the driver's write of any length at any offset. Only the two first bytes are writable.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        let fields = [&self.select, &self.subsel];
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        for (field, byte) in fields.iter().skip(offset).zip(data) {
            field.store(*byte, Ordering::Relaxed);
        }
    }

    /// Returns to the choice of a device that was not used yet.
    pub(crate) fn clear(&self) {
        self.write(0, &[0, 0]);
    }

    /// Returns the config space of a device of this kind.
    pub(crate) fn config(&self, kind: Kind) -> Config {
        let (select, subsel) = (self.select.load(Ordering::Relaxed), self.subsel.load(Ordering::Relaxed));
        let piece = piece(kind, select, subsel);
        let mut config = Config { select, subsel, size: piece.len() as u8, reserved: [0; 5], data: [0; 128] };
        // No piece is longer than the field.
        config.data.iter_mut().zip(piece).for_each(|(to, from)| *to = from);
        config
    }
}

/// Returns a piece of the description, or nothing if the device has no such piece.
fn piece(kind: Kind, select: u8, subsel: u8) -> Vec<u8> {
    match (kind, select, u16::from(subsel)) {
        (Kind::Keyboard, ID_NAME, 0) => b"Millrace Keyboard".to_vec(),
        (Kind::Tablet, ID_NAME, 0) => b"Millrace Tablet".to_vec(),
        (_, ID_DEVIDS, 0) => {
            let product = if kind == Kind::Keyboard { 1 } else { 2 };
            // Bus, vendor, product and version.
            [BUS_VIRTUAL, 0, product, 1].iter().flat_map(|id| id.to_le_bytes()).collect()
        }
        (Kind::Keyboard, EV_BITS, EV_KEY) => bits(1..=LAST_KEY),
        (Kind::Keyboard, EV_BITS, EV_LED) => bits([LED_NUML, LED_CAPSL, LED_SCROLLL]),
        (Kind::Tablet, EV_BITS, EV_KEY) => bits(BUTTONS),
        (Kind::Tablet, EV_BITS, EV_REL) => bits([REL_WHEEL, REL_HWHEEL]),
        (Kind::Tablet, EV_BITS, EV_ABS) => bits([ABS_X, ABS_Y]),
        // Least and greatest value, fuzz, flat, resolution.
        (Kind::Tablet, ABS_INFO, ABS_X | ABS_Y) => {
            [0, ABS_MAX, 0, 0, 0].iter().flat_map(|value| value.to_le_bytes()).collect()
        }
        _ => Vec::new(),
    }
}

/// Returns a bitmap with these bits, without zero bytes at its end.
fn bits(codes: impl IntoIterator<Item = u16>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for code in codes {
        let at = usize::from(code / 8);
        if bytes.len() <= at {
            bytes.resize(at + 1, 0);
        }
        bytes[at] |= 1 << (code % 8);
    }
    bytes
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
