//! The boot CPU's initial state: segments, control registers, page tables.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::error::Error;
use crate::layout::{GDT, PAGE_TABLES};

/// The protocol by which a kernel is entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// Long mode, low 4 GiB mapped to themselves, the zero page's address in RSI (boot.rst, '64-bit boot
    /// protocol').
    Linux64,
    /// 32-bit protected mode without paging, `hvm_start_info`'s address in EBX.
    Pvh,
}

/// A kernel's entry point, at which the boot CPU starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The protocol.
    pub protocol: Protocol,
    /// The guest-physical address of the first instruction.
    pub address: u64,
    /// The guest-physical address of the zero page or of `hvm_start_info`.
    pub parameters: u64,
}

/// The selectors __BOOT_CS and __BOOT_DS, which Linux's boot protocol requires; PVH allows any.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

const TASK_LIMIT: u32 = 0x67;

impl Entry {
    /// Returns the segment descriptors, beginning with the null descriptor (Intel SDM volume 3, 3.4.5).
    fn descriptors(&self) -> [u64; 5] {
        let code = match self.protocol {
            Protocol::Linux64 => 0x00af_9b00_0000_ffff,
            Protocol::Pvh => 0x00cf_9b00_0000_ffff,
        };
        [0, 0, code, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0000 | u64::from(TASK_LIMIT)]
    }

    /// Writes descriptors and, for long mode, page tables into low memory.
    pub(crate) fn write_tables(&self, memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
        for (index, descriptor) in self.descriptors().iter().enumerate() {
            memory.write_obj(*descriptor, GuestAddress(GDT + index as u64 * 8))?;
        }
        if self.protocol == Protocol::Pvh {
            return Ok(());
        }
        const PRESENT_WRITABLE: u64 = 3;
        const LARGE: u64 = 1 << 7;
        const PAGE: u64 = 0x1000;
        let (pdpt, directories) = (PAGE_TABLES + PAGE, PAGE_TABLES + 2 * PAGE);
        memory.write_obj(pdpt | PRESENT_WRITABLE, GuestAddress(PAGE_TABLES))?;
        for gib in 0..4 {
            let directory = directories + gib * PAGE;
            memory.write_obj(directory | PRESENT_WRITABLE, GuestAddress(pdpt + gib * 8))?;
            for index in 0..512 {
                let page = gib << 30 | index << 21;
                memory.write_obj(page | LARGE | PRESENT_WRITABLE, GuestAddress(directory + index * 8))?;
            }
        }
        Ok(())
    }

    pub(crate) fn set_registers(&self, vcpu: &VcpuFd) -> Result<(), Error> {
        const PE: u64 = 1;
        const ET: u64 = 1 << 4;
        const PG: u64 = 1 << 31;
        const PAE: u64 = 1 << 5;
        const LME: u64 = 1 << 8;
        const LMA: u64 = 1 << 10;

        let long = self.protocol == Protocol::Linux64;
        let mut sregs = vcpu.get_sregs().map_err(Error::kvm("registers"))?;
        let data = kvm_segment {
            limit: u32::MAX,
            selector: DATA,
            type_: 3,
            present: 1,
            db: 1,
            s: 1,
            g: 1,
            ..Default::default()
        };
        sregs.cs = kvm_segment { selector: CODE, type_: 0xb, db: u8::from(!long), l: u8::from(long), ..data };
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
        sregs.tr =
            kvm_segment { limit: TASK_LIMIT, selector: TASK, type_: 0xb, present: 1, ..Default::default() };
        sregs.gdt = kvm_dtable { base: GDT, limit: 5 * 8 - 1, ..Default::default() };
        sregs.idt = kvm_dtable::default();
        sregs.cr0 = PE | ET;
        sregs.cr4 = 0;
        if long {
            sregs.cr0 |= PG;
            sregs.cr3 = PAGE_TABLES;
            sregs.cr4 |= PAE;
            sregs.efer |= LME | LMA;
        }
        vcpu.set_sregs(&sregs).map_err(Error::kvm("registers"))?;

        // Bit 1 of the flags is always set; interrupts are off.
        let mut regs = kvm_regs { rip: self.address, rflags: 2, ..Default::default() };
        match self.protocol {
            Protocol::Linux64 => regs.rsi = self.parameters,
            Protocol::Pvh => regs.rbx = self.parameters,
        }
        vcpu.set_regs(&regs).map_err(Error::kvm("registers"))
    }
}
