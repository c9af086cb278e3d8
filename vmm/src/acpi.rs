//! The ACPI tables, which describe CPUs, serial ports, virtio devices and power control to the guest.
//!
//! The FADT declares a hardware-reduced platform (ACPI 6.4, 4.1): no PM timer, no SCI, no fixed buttons,
//! no legacy PIC and PIT. Sleep and reset are plain I/O ports, and the power button is an interrupt of a
//! generic event device.
//!
//! Linux assumes that a hardware-reduced machine has UEFI. Without `reboot=acpi` on its command line it
//! first tries to restart through UEFI's services, which do not exist here, and then jumps to the
//! real-mode reset vector. So there is a reset vector of five instructions, which writes the reset
//! register.

use acpi_tables::Aml;
use acpi_tables::aml::{
    Arg, Device, EISAName, Equal, IO, If, Interrupt, Memory32Fixed, Method, Name, Notify, Package, Path,
    ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::layout::{
    ACPI, BUTTON_GSI, IO_APIC, LOCAL_APIC, MMIO_SIZE, POWER, PVPANIC, RESET_VECTOR, SERIAL_GSIS,
    SERIAL_PORTS, device_gsi, device_window,
};

/// The sleep type of state S5, soft off, as the DSDT's `_S5` names it.
pub const S5: u8 = 5;
/// The value that the guest writes to the reset register.
pub const RESET_VALUE: u8 = 1;

const OEM: [u8; 6] = *b"MILLRC";
const OEM_TABLE: [u8; 8] = *b"MILLRACE";
const REVISION: u32 = 1;

/// Returns all tables of a machine, the RSDP first, as they lie in memory from address `start` on.
pub fn tables(start: u64, cpus: u32, serials: usize, devices: usize) -> Vec<u8> {
    // The kernel is given the RSDP's address only, so the RSDP comes first. It is filled in last, when the
    // XSDT's address is known.
    let mut bytes = vec![0; Rsdp::len().next_multiple_of(64)];
    let mut add = |table: &dyn Aml| {
        let address = start + bytes.len() as u64;
        table.to_aml_bytes(&mut bytes);
        bytes.resize(bytes.len().next_multiple_of(64), 0);
        address
    };
    let dsdt = add(&dsdt(serials, devices));
    let fadt = add(&fadt(dsdt));
    let madt = add(&madt(cpus));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = add(&xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    bytes[..rsdp.len()].copy_from_slice(&rsdp);
    bytes
}

/// Writes the tables into guest memory, the RSDP at [`ACPI`].
pub(crate) fn write(
    memory: &GuestMemoryMmap,
    cpus: u32,
    serials: usize,
    devices: usize,
) -> Result<(), String> {
    let bytes = tables(ACPI, cpus, serials, devices);
    if ACPI + bytes.len() as u64 > RESET_VECTOR {
        return Err(format!("ACPI tables of {} bytes", bytes.len()));
    }
    memory.write_slice(&bytes, GuestAddress(ACPI)).map_err(|e| e.to_string())?;
    memory.write_slice(&reset_vector(), GuestAddress(RESET_VECTOR)).map_err(|e| e.to_string())
}

/// Returns real-mode code that writes the reset register, then halts until the reset happens.
fn reset_vector() -> [u8; 9] {
    let [low, high] = (POWER + 2).to_le_bytes();
    // mov dx, port; mov al, value; out dx, al; hlt; jmp to the hlt
    [0xba, low, high, 0xb0, RESET_VALUE, 0xee, 0xf4, 0xeb, 0xfd]
}

fn port(address: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, address.into())
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    // IAPC_BOOT_ARCH (ACPI 6.4, table 5.11): no VGA, no MSI, no CMOS RTC. The bits for legacy devices and
    // the 8042 are zero, since there are none. Without the RTC bit Linux waits for an RTC for seconds.
    const NO_VGA: u16 = 1 << 2;
    const NO_MSI: u16 = 1 << 3;
    const NO_CMOS_RTC: u16 = 1 << 5;
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, REVISION)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::Unspecified)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless)
        .flag(Flags::HwReducedAcpi);
    fadt.iapc_boot_arch = (NO_VGA | NO_MSI | NO_CMOS_RTC).into();
    fadt.sleep_control_reg = port(POWER);
    fadt.sleep_status_reg = port(POWER + 1);
    fadt.reset_reg = port(POWER + 2);
    fadt.reset_value = RESET_VALUE;
    fadt.finalize()
}

fn madt(cpus: u32) -> MADT {
    let mut madt = MADT::new(OEM, OEM_TABLE, REVISION, LocalInterruptController::Address(LOCAL_APIC));
    for cpu in 0..cpus as u8 {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, IO_APIC, 0));
    madt
}

fn dsdt(serials: usize, devices: usize) -> Sdt {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, REVISION);
    let mut add = |item: &dyn Aml| {
        let mut bytes = Vec::new();
        item.to_aml_bytes(&mut bytes);
        dsdt.append_slice(&bytes);
    };
    add(&Name::new("_S5_".into(), &Package::new(vec![&S5, &0u8, &0u8, &0u8])));
    for index in 0..serials {
        add(&Scope::new("\\_SB_".into(), vec![&Serial(index)]));
    }
    for index in 0..devices {
        add(&Scope::new("\\_SB_".into(), vec![&VirtioMmio(index)]));
    }
    add(&Scope::new("\\_SB_".into(), vec![&PowerButton, &PvPanic]));
    dsdt
}

/// Returns an edge-triggered, active-high interrupt that is not shared.
fn interrupt(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

struct Serial(usize);

impl Aml for Serial {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let port = SERIAL_PORTS[self.0];
        Device::new(
            Path::new(&format!("COM{}", self.0 + 1)),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0501")),
                &Name::new("_UID".into(), &(self.0 as u8)),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![&IO::new(port, port, 1, 8), &interrupt(SERIAL_GSIS[self.0])]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

struct VirtioMmio(usize);

impl Aml for VirtioMmio {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let window = Memory32Fixed::new(true, device_window(self.0) as u32, MMIO_SIZE as u32);
        Device::new(
            Path::new(&format!("VR{:02X}", self.0)),
            vec![
                &Name::new("_HID".into(), &"LNRO0005"),
                &Name::new("_UID".into(), &(self.0 as u8)),
                // Cache-coherent DMA (ACPI 6.4, 6.2.17).
                &Name::new("_CCA".into(), &1u8),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![&window, &interrupt(device_gsi(self.0))]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// A power button: a generic event device (ACPI 6.4, 5.6.9) whose only interrupt is a press of it.
struct PowerButton;

impl Aml for PowerButton {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        const PRESSED: u8 = 0x80;
        let button = Path::new("\\_SB_.PWRB");
        Device::new("PWRB".into(), vec![&Name::new("_HID".into(), &EISAName::new("PNP0C0C"))])
            .to_aml_bytes(sink);
        Device::new(
            "GED_".into(),
            vec![
                &Name::new("_HID".into(), &"ACPI0013"),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&interrupt(BUTTON_GSI)])),
                &Method::new(
                    "_EVT".into(),
                    1,
                    true,
                    vec![&If::new(
                        &Equal::new(&Arg(0), &(BUTTON_GSI as u8)),
                        vec![&Notify::new(&button, &PRESSED)],
                    )],
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

struct PvPanic;

impl Aml for PvPanic {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        Device::new(
            "PEVT".into(),
            vec![
                &Name::new("_HID".into(), &"QEMU0001"),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&IO::new(PVPANIC, PVPANIC, 1, 1)])),
            ],
        )
        .to_aml_bytes(sink);
    }
}

#[cfg(test)]
#[path = "acpi_tests.rs"]
mod tests;
