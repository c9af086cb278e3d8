//! The throw-away vCPU: one page of code at ring 0 in long mode, with identity-mapped low memory.
//!
//! Formats: Intel SDM volume 3A, 4.5 (page tables), 3.4.5 (segment descriptors), 6.14 (64-bit gates).

use std::sync::mpsc;
use std::time::Duration;

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2, kvm_regs, kvm_segment, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm as KvmHandle, VcpuExit, VcpuFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::Kvm;

const MEMORY: usize = 0x10000;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const IDT: u64 = 0x3000;
const CODE: u64 = 0x4000;
const PAGE_DIRECTORY: u64 = 0x5000;
const STACK_TOP: u64 = 0x7000;
const GDT: u64 = 0x7000;
/// Zeroed memory for the instructions to work on; 64-byte aligned, as xsave requires.
const SCRATCH: u64 = 0x8000;
/// The port that the code writes to when it reaches its end.
const PORT: u16 = 0xf4;
const ARRIVED: u8 = 0x4b;
const CODE_SELECTOR: u16 = 8;
const DATA_SELECTOR: u16 = 16;
const BREAKPOINT_VECTOR: u64 = 3;
/// A real KVM needs about a millisecond, an emulated one some hundred.
const WATCHDOG: Duration = Duration::from_secs(10);

// Position-independent code. The handler counts breakpoints in rbx, which the code then writes to the
// port as proof. rsi is not 0 if the CPU has xsave.
std::arch::global_asm!(
    ".pushsection .rodata",
    "probe_code:",
    "mov rdi, 0x8000",
    "xor eax, eax",
    "xor edx, edx",
    "mov ebx, 0x4a",
    "xor ecx, ecx",
    "lock cmpxchg16b [rdi]",
    "int3",
    "test esi, esi",
    "jz 2f",
    "mov eax, 3",
    "xor edx, edx",
    "xsave [rdi + 64]",
    "xrstor [rdi + 64]",
    "2:",
    "mov eax, ebx",
    "out 0xf4, al",
    "hlt",
    "probe_handler:",
    "inc ebx",
    "iretq",
    "probe_end:",
    ".popsection",
);

unsafe extern "C" {
    static probe_code: u8;
    static probe_handler: u8;
    static probe_end: u8;
}

/// Runs the code. Returns [`Kvm::Usable`] if it reached its end, and the reason otherwise.
pub(super) fn try_stock_code() -> Kvm {
    let (answer, arrived) = mpsc::channel();
    // Runs on a thread of its own, so that a KVM that never returns cannot block the caller. Such a
    // thread stays until the process ends: it cannot be interrupted without relying on KVM.
    let thread = std::thread::Builder::new().name("kvm-probe".to_owned());
    let spawned = thread.spawn(move || {
        // If the send fails, nobody waits any more.
        let say = |kvm| drop(answer.send(kvm));
        if let Err(failure) = run(|kvm| say(Ok(kvm))) {
            say(Err(failure));
        }
    });
    if let Err(error) = spawned {
        return Kvm::Broken(format!("no thread: {error}"));
    }
    match arrived.recv_timeout(WATCHDOG) {
        Ok(Ok(kvm)) => kvm,
        Ok(Err((what, error))) => Kvm::Broken(format!("{what}: {error}")),
        Err(_) => Kvm::CannotRunStockCode("a few instructions did not end".to_owned()),
    }
}

type Failure = (&'static str, Box<dyn std::error::Error + Send + Sync>);

/// For `map_err`: adds the name of the operation that failed.
fn at<E: std::error::Error + Send + Sync + 'static>(what: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| (what, Box::new(error))
}

/// Calls `say` with the result before the VM is destroyed, which takes the kernel longer than everything
/// else.
fn run(say: impl FnOnce(Kvm)) -> Result<(), Failure> {
    let kvm = KvmHandle::new().map_err(at("open"))?;
    let vm = kvm.create_vm().map_err(at("create a VM"))?;
    let memory =
        GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)]).map_err(at("map memory"))?;
    fill(&memory).map_err(at("fill memory"))?;
    let host = memory.get_host_address(GuestAddress(0)).map_err(at("find memory"))?;
    let region = kvm_userspace_memory_region {
        memory_size: MEMORY as u64,
        userspace_addr: host as u64,
        ..Default::default()
    };
    // SAFETY: `memory` is mapped for MEMORY bytes from `host`, and is dropped after the VM, whose last
    // use is below.
    unsafe { vm.set_user_memory_region(region) }.map_err(at("give the VM memory"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(at("create a vCPU"))?;
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(at("get CPUID"))?;
    vcpu.set_cpuid2(&cpuid).map_err(at("set CPUID"))?;
    enter_long_mode(&vcpu, has_xsave(cpuid.as_slice())).map_err(at("set registers"))?;
    let answer = match vcpu.run() {
        Ok(VcpuExit::IoOut(PORT, [ARRIVED])) => Kvm::Usable,
        Ok(VcpuExit::InternalError) => {
            Kvm::CannotRunStockCode(format!("its emulator gave up {}", position(&vcpu)))
        }
        Ok(exit) => Kvm::CannotRunStockCode(format!("unexpected exit {exit:?}")),
        Err(error) => Kvm::CannotRunStockCode(format!("KVM_RUN: {error}")),
    };
    say(answer);
    drop((vcpu, vm));
    Ok(())
}

/// Returns true if these CPUID entries report xsave. Stock kernels also run without it (Intel SDM volume
/// 2A, CPUID leaf 1).
fn has_xsave(cpuid: &[kvm_cpuid_entry2]) -> bool {
    cpuid.iter().any(|entry| entry.function == 1 && entry.ecx & 1 << 26 != 0)
}

/// A description of the vCPU's position in the code.
fn position(vcpu: &VcpuFd) -> String {
    vcpu.get_regs()
        .map_or_else(|_| "somewhere".to_owned(), |regs| format!("at {:#x}", regs.rip.wrapping_sub(CODE)))
}

fn fill(memory: &GuestMemoryMmap<()>) -> Result<(), vm_memory::GuestMemoryError> {
    let code = &raw const probe_code;
    // SAFETY: the three symbols stand in this order in one section (see `global_asm` above), so both lengths
    // lie within it, and the bytes are initialised, constant data.
    let (bytes, handler) = unsafe {
        let length = (&raw const probe_end).offset_from_unsigned(code);
        (std::slice::from_raw_parts(code, length), (&raw const probe_handler).offset_from_unsigned(code))
    };
    memory.write_slice(bytes, GuestAddress(CODE))?;
    // Present and writable. The page directory holds one 2 MiB page, which covers all the memory there
    // is.
    memory.write_obj(PDPT | 0b11, GuestAddress(PML4))?;
    memory.write_obj(PAGE_DIRECTORY | 0b11, GuestAddress(PDPT))?;
    memory.write_obj(0b1000_0011_u64, GuestAddress(PAGE_DIRECTORY))?;
    // Read when the breakpoint enters its handler and when it returns: null, 64-bit code, data.
    let descriptors = [0, 0x00af_9b00_0000_ffff_u64, 0x00cf_9300_0000_ffff];
    for (address, descriptor) in (GDT..).step_by(8).zip(descriptors) {
        memory.write_obj(descriptor, GuestAddress(address))?;
    }
    // The handler lies below 64 KiB, so the gate's upper address parts are zero. 0x8e: present, interrupt
    // gate.
    let gate = (CODE + handler as u64) | u64::from(CODE_SELECTOR) << 16 | 0x8e << 40;
    memory.write_obj(gate, GuestAddress(IDT + BREAKPOINT_VECTOR * 16))
}

fn enter_long_mode(vcpu: &VcpuFd, xsave: bool) -> Result<(), kvm_ioctls::Error> {
    let code = kvm_segment {
        limit: 0xffff_ffff,
        selector: CODE_SELECTOR,
        type_: 0xb,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment { selector: DATA_SELECTOR, type_: 3, l: 0, db: 1, ..code };
    let mut sregs = vcpu.get_sregs()?;
    sregs.cs = code;
    [sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss] = [data; 5];
    sregs.gdt.base = GDT;
    sregs.gdt.limit = 0x17;
    sregs.idt.base = IDT;
    sregs.idt.limit = 0xff;
    sregs.cr3 = PML4;
    sregs.cr4 = 1 << 5 | 1 << 9 | u64::from(xsave) << 18; // PAE, OSFXSR, OSXSAVE
    sregs.cr0 = 1 << 31 | 1 << 5 | 1 << 1 | 1; // PG, NE, MP, PE
    sregs.efer = 1 << 10 | 1 << 8; // LMA, LME
    vcpu.set_sregs(&sregs)?;
    let (rdi, rsi) = (SCRATCH, xsave.into());
    vcpu.set_regs(&kvm_regs { rip: CODE, rsp: STACK_TOP, rdi, rsi, rflags: 2, ..Default::default() })
}
