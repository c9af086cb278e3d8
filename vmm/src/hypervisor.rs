//! KVM: the capabilities that the host must have, and a virtual machine with its vCPUs, interrupt lines
//! and doorbells. A reset makes a new virtual machine, so that the kernel keeps no state of the old one.

use std::io;
use std::os::raw::c_char;
use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQCHIP_IOAPIC, KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY,
    KvmIrqRouting, Msrs, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip,
    kvm_msr_entry, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VcpuFd, VmFd};
use vm_memory::{
    Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress,
};
use vmm_sys_util::eventfd::EventFd;

use crate::cpuid;
use crate::error::Error;
use crate::layout::{GSIS, IDENTITY_MAP, TSS};
use crate::screen::Screen;

const NEEDED: [(Cap, &str); 12] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP (an interrupt controller in the kernel)"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT (Linux 4.13)"),
    (Cap::Clocksource, "KVM_CAP_CLOCKSOURCE"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
];

/// Opens `/dev/kvm` and checks that it has everything that a [`crate::Machine`] needs. This does not find
/// out whether this KVM runs stock kernels: some have every capability and fail at the first unusual
/// instruction.
///
/// # Errors
/// Fails with one line that says what is missing and what to do about it.
pub fn check_host() -> Result<(), Error> {
    open().map(drop)
}

/// Opens `/dev/kvm`.
///
/// # Errors
/// See [`check_host`].
pub fn open() -> Result<Kvm, Error> {
    let kvm = Kvm::new().map_err(|e| {
        let what = match e.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => {
                "there is none: enable virtualization in the firmware and load kvm_intel or kvm_amd, \
                 or use --machine none"
            }
            libc::EACCES | libc::EPERM => {
                "permission denied: add yourself to the group that owns it (often kvm)"
            }
            _ => return Error::NoKvm(io::Error::from(e).to_string()),
        };
        Error::NoKvm(what.into())
    })?;
    if kvm.get_api_version() != 12 {
        return Err(Error::NoKvm(format!("API version {}, not 12", kvm.get_api_version())));
    }
    for (cap, name) in NEEDED {
        if !kvm.check_extension(cap) {
            return Err(Error::KvmLacks(name));
        }
    }
    Ok(kvm)
}

/// An interrupt line. Each write to the eventfd is one edge.
pub(crate) struct Line {
    pub(crate) event: EventFd,
    pub(crate) gsi: u32,
}

/// A doorbell: a 32-bit write of `value` to `address` writes the eventfd, without an exit to user space.
pub(crate) struct Doorbell {
    pub(crate) event: EventFd,
    pub(crate) address: u64,
    pub(crate) value: u32,
}

/// A virtual machine. Its vCPUs can start once the first one has its registers.
pub(crate) struct Vm {
    pub(crate) vcpus: Vec<VcpuFd>,
    /// Keeps lines and doorbells connected.
    pub(crate) fd: Arc<VmFd>,
    /// The slot of the screen, if there is one.
    pub(crate) screen_slot: u32,
}

impl Vm {
    pub(crate) fn new(
        kvm: &Kvm,
        memory: &GuestMemoryMmap,
        screen: Option<&Screen>,
        cpus: u32,
    ) -> Result<Self, Error> {
        let fd = kvm.create_vm().map_err(Error::kvm("making a virtual machine"))?;
        fd.set_identity_map_address(IDENTITY_MAP).map_err(Error::kvm("identity map"))?;
        fd.set_tss_address(TSS as usize).map_err(Error::kvm("TSS"))?;
        for (slot, region) in memory.iter().enumerate() {
            add_memory(&fd, slot as u32, region)?;
        }
        let screen_slot = memory.iter().count() as u32;
        if let Some(screen) = screen {
            screen.add_to(&fd, screen_slot)?;
        }
        fd.create_irq_chip().map_err(Error::kvm("interrupt controller"))?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        fd.create_pit2(pit).map_err(Error::kvm("interval timer"))?;
        route_interrupts(&fd)?;
        let vcpus = (0..cpus).map(|index| new_vcpu(kvm, &fd, index, cpus)).collect::<Result<Vec<_>, _>>()?;
        Ok(Vm { vcpus, fd: Arc::new(fd), screen_slot })
    }

    /// Connects the devices, before any vCPU runs.
    pub(crate) fn connect(&self, lines: &[Line], doorbells: &[Doorbell]) -> Result<(), Error> {
        let fd = &self.fd;
        for line in lines {
            fd.register_irqfd(&line.event, line.gsi).map_err(Error::kvm("interrupt line"))?;
        }
        for doorbell in doorbells {
            fd.register_ioevent(&doorbell.event, &IoEventAddress::Mmio(doorbell.address), doorbell.value)
                .map_err(Error::kvm("queue notification"))?;
        }
        Ok(())
    }
}

fn add_memory(fd: &VmFd, slot: u32, region: &GuestRegionMmap) -> Result<(), Error> {
    let host = region
        .get_host_address(MemoryRegionAddress(0))
        .map_err(|e| Error::System { what: "guest memory", source: io::Error::other(e) })?;
    let region = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: region.start_addr().raw_value(),
        memory_size: region.len(),
        userspace_addr: host as u64,
    };
    // SAFETY: the mapping belongs to guest memory, which the machine keeps longer than its VM; regions
    // do not overlap, and nobody on the host holds references into them.
    unsafe { fd.set_user_memory_region(region) }.map_err(Error::kvm("guest memory"))
}

/// Interrupts go to the I/O APIC alone. KVM's default also raises them at the 8259, which a kernel
/// without legacy devices (a hardware-reduced FADT) leaves unmasked and unprogrammed. The interval
/// timer is on pin 2, as in every PC.
fn route_interrupts(fd: &VmFd) -> Result<(), Error> {
    let entries: Vec<_> = (0..GSIS)
        .filter(|gsi| *gsi != 2)
        .map(|gsi| kvm_irq_routing_entry {
            gsi,
            type_: KVM_IRQ_ROUTING_IRQCHIP,
            u: kvm_irq_routing_entry__bindgen_ty_1 {
                irqchip: kvm_irq_routing_irqchip {
                    irqchip: KVM_IRQCHIP_IOAPIC,
                    pin: if gsi == 0 { 2 } else { gsi },
                },
            },
            ..Default::default()
        })
        .collect();
    let routing = KvmIrqRouting::from_entries(&entries).map_err(|e| Error::System {
        what: "interrupt routing",
        source: io::Error::other(format!("{e:?}")),
    })?;
    fd.set_gsi_routing(&routing).map_err(Error::kvm("interrupt routing"))
}

fn new_vcpu(kvm: &Kvm, fd: &VmFd, index: u32, cpus: u32) -> Result<VcpuFd, Error> {
    let vcpu = fd.create_vcpu(index.into()).map_err(Error::kvm("making a vCPU"))?;
    let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(Error::kvm("CPUID"))?;
    let deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    let entries = cpuid::for_vcpu(supported.as_slice(), index, cpus, deadline);
    let cpuid = CpuId::from_entries(&entries)
        .map_err(|e| Error::System { what: "CPUID", source: io::Error::other(format!("{e:?}")) })?;
    vcpu.set_cpuid2(&cpuid).map_err(Error::kvm("CPUID"))?;
    set_msrs(&vcpu)?;
    set_lapic(&vcpu)?;
    Ok(vcpu)
}

/// Sets the MSRs that matter to a kernel as firmware leaves them: memory is write-back unless page tables
/// say otherwise (IA32_MTRR_DEF_TYPE), string operations are fast (IA32_MISC_ENABLE).
fn set_msrs(vcpu: &VcpuFd) -> Result<(), Error> {
    const MTRR_DEF_TYPE: (u32, u64) = (0x2ff, 1 << 11 | 6);
    const MISC_ENABLE: (u32, u64) = (0x1a0, 1);
    for (index, data) in [MTRR_DEF_TYPE, MISC_ENABLE] {
        let entry = kvm_msr_entry { index, data, ..Default::default() };
        let msrs = Msrs::from_entries(&[entry])
            .map_err(|e| Error::System { what: "MSRs", source: io::Error::other(format!("{e:?}")) })?;
        if vcpu.set_msrs(&msrs).map_err(Error::kvm("MSRs"))? != 1 {
            tracing::debug!("KVM does not know MSR {index:#x}");
        }
    }
    Ok(())
}

/// Makes LINT1 the NMI line, as firmware leaves it. LINT0 keeps what KVM gives it. Nothing here raises that
/// line, and the MADT does not list it.
fn set_lapic(vcpu: &VcpuFd) -> Result<(), Error> {
    const LVT_LINT1: usize = 0x360;
    const DELIVER_NMI: u32 = 4 << 8;
    let mut lapic = vcpu.get_lapic().map_err(Error::kvm("local APIC"))?;
    for (byte, value) in lapic.regs[LVT_LINT1..].iter_mut().zip(DELIVER_NMI.to_le_bytes()) {
        *byte = value as c_char;
    }
    vcpu.set_lapic(&lapic).map_err(Error::kvm("local APIC"))
}
