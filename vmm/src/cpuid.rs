//! The CPUID that the guest sees: the features that KVM supports, with this machine's topology written
//! over them.
//!
//! Sources: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; KVM's CPUID documentation.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// CPUID 1, ECX.
const XSAVE: u32 = 1 << 26;
/// CPUID 1, ECX.
const AVX: u32 = 1 << 28;
const HYPERVISOR: u32 = 1 << 31;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPER_THREADING: u32 = 1 << 28;

/// One output register of CPUID.
#[derive(Clone, Copy)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// A leaf and subleaf of CPUID, one of its registers, and bits in it.
type Features = (u32, u32, Register, u32);

/// Features whose state only XSAVE can save (Intel SDM volume 1, 13.1): AVX, MPX, protection keys, AMX,
/// and the leaf that describes the state.
const NEED_XSAVE: [Features; 8] = [
    (1, 0, Register::Ecx, AVX),
    (7, 0, Register::Ebx, 1 << 14),
    (7, 0, Register::Ecx, 1 << 3),
    (7, 0, Register::Edx, 1 << 22 | 1 << 24 | 1 << 25),
    (7, 1, Register::Eax, 1 << 21),
    (0xd, 0, Register::Eax, u32::MAX),
    (0xd, 0, Register::Ebx, u32::MAX),
    (0xd, 1, Register::Eax, u32::MAX),
];

/// Features that are instructions on AVX's registers (Intel SDM volume 1, 14 and 15; AMD APM volume 3,
/// appendix D): FMA, F16C; AVX2 and all of AVX-512; VAES, VPCLMULQDQ; the later AVX of leaf 7.1; XOP and
/// FMA4.
const NEED_AVX: [Features; 7] = [
    (1, 0, Register::Ecx, 1 << 12 | 1 << 29),
    (7, 0, Register::Ebx, 1 << 5 | 3 << 16 | 1 << 21 | 7 << 26 | 3 << 30),
    (7, 0, Register::Ecx, 1 << 1 | 1 << 6 | 7 << 9 | 1 << 12 | 1 << 14),
    (7, 0, Register::Edx, 3 << 2 | 1 << 8 | 1 << 23),
    (7, 1, Register::Eax, 7 | 3 << 4 | 1 << 23),
    (7, 1, Register::Edx, 3 << 4 | 1 << 10 | 1 << 19),
    (0x8000_0001, 0, Register::Ecx, 1 << 11 | 1 << 16),
];

/// Removes features whose prerequisite is missing. A host that is a VM itself may offer such a pair (AVX
/// without XSAVE), which its KVM then offers too, and a kernel that tests only for AVX crashes on it.
fn make_consistent(entries: &mut [kvm_cpuid_entry2]) {
    for (prerequisite, dependent) in [(XSAVE, &NEED_XSAVE[..]), (AVX, &NEED_AVX)] {
        let has_it = entries.iter().any(|entry| entry.function == 1 && entry.ecx & prerequisite != 0);
        if has_it {
            continue;
        }
        for &(function, index, register, bits) in dependent {
            for entry in &mut *entries {
                if (entry.function, entry.index) == (function, index) {
                    match register {
                        Register::Eax => entry.eax &= !bits,
                        Register::Ebx => entry.ebx &= !bits,
                        Register::Ecx => entry.ecx &= !bits,
                        Register::Edx => entry.edx &= !bits,
                    }
                }
            }
        }
    }
}

/// Returns the number of bits of an APIC ID that identify a core in a package of `cpus` cores.
fn core_bits(cpus: u32) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

/// Returns the CPUID entries of vCPU `cpu` (its APIC ID) in a machine with one package of `cpus` cores, of
/// one thread each. `supported` is the result of `KVM_GET_SUPPORTED_CPUID`. `deadline` is true if the host
/// has KVM_CAP_TSC_DEADLINE_TIMER, which that result does not include.
pub fn for_vcpu(
    supported: &[kvm_cpuid_entry2],
    cpu: u32,
    cpus: u32,
    deadline: bool,
) -> Vec<kvm_cpuid_entry2> {
    let bits = core_bits(cpus);
    let mut entries: Vec<_> =
        supported.iter().copied().filter(|entry| !matches!(entry.function, 0xb | 0x1f)).collect();
    make_consistent(&mut entries);
    for entry in &mut entries {
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0xffff | cpus << 16 | cpu << 24;
                entry.ecx |= HYPERVISOR;
                if deadline {
                    entry.ecx |= TSC_DEADLINE;
                }
                if cpus > 1 {
                    entry.edx |= HYPER_THREADING;
                }
            }
            // Deterministic caches (Intel 4, AMD 8000001d): all cores share level 3, and none shares a
            // lower level.
            4 | 0x8000_001d if entry.eax & 0x1f != 0 => {
                let level = entry.eax >> 5 & 7;
                let sharing = if level >= 3 { cpus - 1 } else { 0 };
                entry.eax = entry.eax & 0x3fff | sharing << 14;
                if entry.function == 4 {
                    entry.eax |= ((1 << bits) - 1) << 26;
                }
            }
            // The guest gets no performance counters: its kernel logs less, and the host's would not move
            // with it.
            0xa => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            0x8000_0008 => entry.ecx = entry.ecx & !0xf0ff | bits << 12 | (cpus - 1),
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (cpu, cpu, 0),
            _ => {}
        }
    }
    let highest = supported.iter().find(|entry| entry.function == 0).map_or(0, |entry| entry.eax);
    // Extended topology: threads, then cores, then the end of the list.
    for function in [0xb, 0x1f].into_iter().filter(|function| *function <= highest) {
        for (index, eax, ebx, kind) in [(0, 0, 1, 1), (1, bits, cpus, 2), (2, 0, 0, 0)] {
            entries.push(kvm_cpuid_entry2 {
                function,
                index,
                flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                eax,
                ebx,
                ecx: kind << 8 | index,
                edx: cpu,
                ..Default::default()
            });
        }
    }
    entries
}

#[cfg(test)]
#[path = "cpuid_tests.rs"]
mod tests;
