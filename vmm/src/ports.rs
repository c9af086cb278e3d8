//! The small devices behind I/O ports: sleep, reset, pvpanic, and the keyboard controller's reset line.

use std::sync::Arc;

use crate::acpi::{RESET_VALUE, S5};
use crate::bus::Target;
use crate::gate::Gate;
use crate::notice::{Event, Notices};
use crate::serial::Port;

/// How a device ends what the guest is doing.
pub(crate) struct Ender {
    pub(crate) gate: Arc<Gate>,
    pub(crate) notices: Arc<Notices>,
    pub(crate) serial: Vec<Arc<Port>>,
}

impl Ender {
    fn end(&self, event: Event) {
        self.gate.close();
        self.notices.push(event);
    }

    fn reset(&self) {
        let panicked = self.serial.iter().any(|port| port.saw_panic());
        self.end(if panicked { Event::Panicked } else { Event::Reset });
    }
}

/// ACPI's sleep control, sleep status and reset registers, a byte each (ACPI 6.4, 4.8.3.7 and 4.8.3.6).
pub(crate) struct Power(pub(crate) Arc<Ender>);

impl Target for Power {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        const SLEEP_ENABLE: u8 = 1 << 5;
        match (offset, data) {
            (0, [value]) if value & SLEEP_ENABLE != 0 && value >> 2 & 7 == S5 => self.0.end(Event::PowerOff),
            (2, [RESET_VALUE]) => self.0.reset(),
            _ => {}
        }
    }
}

/// The keyboard controller's command port: only the command that pulses the reset line is known.
pub(crate) struct Keyboard(pub(crate) Arc<Ender>);

impl Target for Keyboard {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        // An empty input buffer: a kernel that wants to send the reset command polls for that.
        data.fill(0);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        if data == [0xfe] {
            self.0.reset();
        }
    }
}

/// pvpanic: one byte, bit 0 for 'panicked', bit 1 for 'a crash kernel was loaded and takes over'.
pub(crate) struct PvPanic(pub(crate) Arc<Notices>);

impl Target for PvPanic {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(1);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        if data.first().is_some_and(|value| value & 1 != 0) {
            self.0.push(Event::Panicked);
        }
    }
}
