//! The parts of a machine that worker threads use too, and how they are connected to a VM.

use std::sync::Arc;

use virtio::mmio::{QUEUE_NOTIFY_OFFSET, Transport};
use vmm_sys_util::eventfd::EventFd;

use crate::boot::Entry;
use crate::boot_parts::BootParts;
use crate::bus::Bus;
use crate::error::Error;
use crate::gate::Gate;
use crate::hypervisor::{Doorbell, Line, Vm};
use crate::layout::{BUTTON_GSI, MMIO_SIZE, SERIAL_GSIS, device_gsi, device_window};
use crate::notice::Notices;
use crate::serial::Port;
use crate::vcpu::Surroundings;
use crate::{acpi, memory, ports};

/// The parts of a machine that worker threads use too.
pub(super) struct Parts {
    pub boot_parts: Arc<BootParts>,
    pub sandbox: sandbox::Mode,
    pub transports: Vec<Arc<Transport>>,
    pub serial: Vec<Arc<Port>>,
    pub button: EventFd,
}

impl Parts {
    /// Returns memory and serial ports to their power-on state. Devices must have been reset before.
    pub(super) fn clear(&self) -> Result<(), Error> {
        memory::clear(&self.boot_parts.memory)?;
        if let Some(screen) = &self.boot_parts.screen {
            screen.clear()?;
        }
        for port in &self.serial {
            port.reset().map_err(Error::system("serial port"))?;
        }
        Ok(())
    }

    /// Connects devices and serial ports to a VM, and describes them to its guest.
    pub(super) fn join(&self, vm: Vm, entry: &Entry) -> Result<Vm, Error> {
        let BootParts { memory, cpus, .. } = &*self.boot_parts;
        acpi::write(memory, *cpus, self.serial.len(), self.transports.len())
            .map_err(|e| Error::System { what: "low memory", source: std::io::Error::other(e) })?;
        let (mut lines, mut doorbells) = (Vec::new(), Vec::new());
        let event = Error::system("eventfd");
        lines.push(Line { event: self.button.try_clone().map_err(&event)?, gsi: BUTTON_GSI });
        for (port, gsi) in self.serial.iter().zip(SERIAL_GSIS) {
            lines.push(Line { event: port.irq().map_err(&event)?, gsi });
        }
        for (index, transport) in self.transports.iter().enumerate() {
            let (interrupt, kicks) = transport.events().map_err(&event)?;
            lines.push(Line { event: interrupt, gsi: device_gsi(index) });
            let address = device_window(index) + QUEUE_NOTIFY_OFFSET;
            doorbells.extend(kicks.into_iter().enumerate().map(|(queue, event)| Doorbell {
                event,
                address,
                value: queue as u32,
            }));
        }
        vm.connect(&lines, &doorbells)?;
        // The other vCPUs wait for the boot CPU's INIT and SIPI in the kernel's local APIC.
        entry.set_registers(&vm.vcpus[0])?;
        Ok(vm)
    }

    pub(super) fn surroundings(&self, gate: Arc<Gate>, notices: Arc<Notices>) -> Surroundings {
        let ports = ports::bus(&gate, &notices, &self.serial);
        let mut mmio = Bus::new();
        for (index, transport) in self.transports.iter().enumerate() {
            mmio.add(device_window(index), MMIO_SIZE, transport.clone());
        }
        Surroundings { ports, mmio, gate, notices, sandbox: self.sandbox }
    }
}
