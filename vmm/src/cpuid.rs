//! What CPUID tells the guest: what KVM supports, with this machine's topology written over it.
//!
//! Sources: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; KVM's CPUID documentation.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

const HYPERVISOR: u32 = 1 << 31;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPER_THREADING: u32 = 1 << 28;

/// Bits of an APIC ID that number the cores of a package of `cpus` cores.
fn core_bits(cpus: u32) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

/// CPUID for vCPU `cpu` (its APIC ID) of `cpus`, from what `KVM_GET_SUPPORTED_CPUID` answered: one
/// package with `cpus` cores of one thread each. `deadline`: the host has KVM_CAP_TSC_DEADLINE_TIMER,
/// which that call does not tell.
pub fn for_vcpu(
    supported: &[kvm_cpuid_entry2],
    cpu: u32,
    cpus: u32,
    deadline: bool,
) -> Vec<kvm_cpuid_entry2> {
    let bits = core_bits(cpus);
    let mut entries: Vec<_> =
        supported.iter().copied().filter(|entry| !matches!(entry.function, 0xb | 0x1f)).collect();
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
            // Deterministic caches (Intel 4, AMD 8000001d): level 3 is shared by all, the rest by none.
            4 | 0x8000_001d if entry.eax & 0x1f != 0 => {
                let level = entry.eax >> 5 & 7;
                let sharing = if level >= 3 { cpus - 1 } else { 0 };
                entry.eax = entry.eax & 0x3fff | sharing << 14;
                if entry.function == 4 {
                    entry.eax |= ((1 << bits) - 1) << 26;
                }
            }
            // The guest gets no performance counters: fewer messages, and none that would move with it.
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
mod tests;
