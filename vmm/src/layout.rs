//! The layout of the guest's physical address space, its I/O ports and its interrupts.

/// The maximum number of vCPUs of a machine.
pub const MAX_CPUS: u32 = 16;

/// End of the RAM below 4 GiB, and start of the hole for devices.
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// Start of the RAM that does not fit below the hole.
pub const HIGH_RAM: u64 = 0x1_0000_0000;

/// Address of the screen's frame buffer, which has up to 20 MiB.
pub const SCREEN: u64 = LOW_RAM_END;
/// Start of the first virtio-mmio window.
pub const MMIO: u64 = 0xd000_0000;
/// The size of a virtio-mmio window, in bytes: registers in the first 256, then config space.
pub const MMIO_SIZE: u64 = 0x1000;
/// Address of the I/O APIC, as KVM places it.
pub const IO_APIC: u32 = 0xfec0_0000;
/// Address of the local APICs, as KVM places them.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Address of a page that KVM needs on a host without unrestricted guest mode (KVM_SET_IDENTITY_MAP_ADDR).
pub const IDENTITY_MAP: u64 = 0xfffb_c000;
/// Address of three pages behind it, for the same purpose (KVM_SET_TSS_ADDR).
pub const TSS: u64 = 0xfffb_d000;

/// The segment descriptors that the boot CPU starts with.
pub const GDT: u64 = 0x500;
/// PVH's `hvm_start_info`.
pub const START_INFO: u64 = 0x6000;
/// PVH's module list and, behind it, memory map.
pub const START_INFO_TABLES: u64 = 0x6100;
/// The Linux boot protocol's zero page.
pub const ZERO_PAGE: u64 = 0x7000;
/// Identity-mapping page tables: one PML4, one PDPT and four page directories, a page each.
pub const PAGE_TABLES: u64 = 0x9000;
/// The kernel's command line.
pub const CMDLINE: u64 = 0x2_0000;
/// The maximum size of a command line in bytes, including its final zero.
pub const CMDLINE_MAX: usize = 0x1_0000;
/// End of conventional memory: from here to 1 MiB nothing is offered as RAM.
pub const EBDA: u64 = 0x9_fc00;
/// ACPI tables, RSDP first, up to [`RESET_VECTOR`].
pub const ACPI: u64 = 0xe_0000;
/// Address of a processor's first instruction after a reset, in real mode.
pub const RESET_VECTOR: u64 = 0xf_fff0;
/// Start of the RAM from 1 MiB on, where kernels are loaded.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// First port of each UART (ttyS0 and ttyS1), which has eight.
pub const SERIAL_PORTS: [u16; 2] = [0x3f8, 0x2f8];
/// Interrupts of the UARTs.
pub const SERIAL_GSIS: [u32; 2] = [4, 3];
/// pvpanic's port.
pub const PVPANIC: u16 = 0x505;
/// Sleep control, sleep status and reset, a byte each.
pub const POWER: u16 = 0x600;
/// The keyboard controller's command port, for kernels that reset through it.
pub const KEYBOARD: u16 = 0x64;
/// The interrupt of the power button.
pub const BUTTON_GSI: u32 = 5;
/// The first interrupt of the virtio devices, which have one each.
pub const DEVICE_GSI: u32 = 6;
/// Number of pins of the I/O APIC.
pub const GSIS: u32 = 24;
/// The maximum number of virtio devices: one for each interrupt that is left.
pub const MAX_DEVICES: usize = (GSIS - DEVICE_GSI) as usize;

/// Returns the start of the window of virtio device `index`.
pub const fn device_window(index: usize) -> u64 {
    MMIO + index as u64 * MMIO_SIZE
}

/// Returns the interrupt of virtio device `index`.
pub const fn device_gsi(index: usize) -> u32 {
    DEVICE_GSI + index as u32
}
