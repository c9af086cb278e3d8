//! The devices at I/O ports: the serial ports, and small devices for sleep, reset, pvpanic and the
//! keyboard controller's reset line.

use std::io;
use std::sync::Arc;

use crate::acpi::{RESET_VALUE, S5};
use crate::bus::{Bus, Target};
use crate::gate::{Gate, Wanted};
use crate::layout::{KEYBOARD, POWER, PVPANIC, SERIAL_PORTS};
use crate::notice::{Event, Notices};
use crate::serial::Port;

/// Returns the port bus of a machine with these serial ports.
pub(crate) fn bus(gate: &Arc<Gate>, notices: &Arc<Notices>, serial: &[Arc<Port>]) -> Bus {
    let ender = Arc::new(Ender { gate: gate.clone(), notices: notices.clone(), serial: serial.to_vec() });
    let mut bus = Bus::new();
    for (port, base) in serial.iter().zip(SERIAL_PORTS) {
        bus.add(base.into(), 8, port.clone());
    }
    bus.add(KEYBOARD.into(), 1, Arc::new(Keyboard(ender.clone())));
    bus.add(PVPANIC.into(), 1, Arc::new(PvPanic(notices.clone())));
    bus.add(POWER.into(), 3, Arc::new(Power(ender)));
    bus
}

/// The port bus without a machine, for tests that play the guest.
pub struct Ports {
    /// The bus of the ports.
    pub bus: Bus,
    notices: Arc<Notices>,
}

impl Ports {
    /// Returns the ports of a machine with two serial ports, which keep their output.
    ///
    /// # Errors
    /// Fails if the process is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        let (gate, notices) = (Gate::new(1, Wanted::Run)?, Arc::new(Notices::new()?));
        let serial = [Arc::new(Port::new(true)?), Arc::new(Port::new(true)?)];
        Ok(Ports { bus: bus(&gate, &notices, &serial), notices })
    }

    /// Removes and returns the next event of a device.
    pub fn event(&self) -> Option<Event> {
        self.notices.pop()
    }
}

/// The means by which a device ends or resets the guest.
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

/// The keyboard controller's command port. It implements only the command that pulses the reset line.
pub(crate) struct Keyboard(pub(crate) Arc<Ender>);

impl Target for Keyboard {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        // The input buffer is always empty: a kernel that wants to send the reset command polls for that.
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
