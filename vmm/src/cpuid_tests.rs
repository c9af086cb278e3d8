//! The topology as a guest reads it.

use super::*;

fn entry(function: u32, index: u32, eax: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { function, index, eax, ..Default::default() }
}

#[test]
fn each_vcpu_learns_its_place() {
    let supported = [
        entry(0, 0, 0x1f),
        entry(1, 0, 0x806f8),
        entry(4, 0, 0xfc00_4121),
        entry(4, 3, 0xfc1f_c163),
        entry(4, 4, 0),
        entry(0xb, 0, 99),
        entry(0x8000_0008, 0, 0x3028),
    ];
    let patched = for_vcpu(&supported, 4, 6, true);
    let get = |function, index| {
        *patched.iter().find(|entry| (entry.function, entry.index) == (function, index)).unwrap()
    };
    assert_eq!(get(1, 0).ebx, 0x0406_0000);
    assert_eq!(get(1, 0).ecx, HYPERVISOR | TSC_DEADLINE);
    assert_ne!(get(1, 0).edx & HYPER_THREADING, 0);
    assert_eq!(get(4, 0).eax >> 14, 7 << 12, "level 1 is shared by none");
    assert_eq!(get(4, 3).eax >> 14 & 0xfff, 5, "level 3 is shared by all");
    assert_eq!(get(4, 4).eax, 0, "the list's end stays one");
    for leaf in [0xb, 0x1f] {
        assert_eq!((get(leaf, 0).eax, get(leaf, 0).ebx, get(leaf, 0).ecx), (0, 1, 0x100));
        assert_eq!((get(leaf, 1).eax, get(leaf, 1).ebx, get(leaf, 1).ecx), (3, 6, 0x201));
        assert_eq!(get(leaf, 1).edx, 4);
        assert_eq!(get(leaf, 2).ecx, 2);
    }
    assert_eq!(get(0x8000_0008, 0).ecx, 0x3005);
}

#[test]
fn one_vcpu_of_an_old_processor() {
    let patched = for_vcpu(&[entry(0, 0, 7), entry(1, 0, 0)], 0, 1, false);
    assert_eq!(patched.len(), 2, "no topology leaf beyond the highest");
    assert_eq!(patched[1].ebx, 1 << 16);
    assert_eq!(patched[1].ecx, HYPERVISOR);
    assert_eq!(patched[1].edx, 0);
}

#[test]
fn features_without_their_prerequisite_are_not_offered() {
    let all = |function, index| kvm_cpuid_entry2 { ebx: !0, ecx: !0, edx: !0, ..entry(function, index, !0) };
    let leaves = [(1, 0), (7, 0), (7, 1), (0xd, 0), (0xd, 1), (0x8000_0001, 0)];
    let offered = |missing: u32| {
        let mut supported: Vec<_> = leaves.iter().map(|&(function, index)| all(function, index)).collect();
        supported[0].ecx &= !missing;
        for_vcpu(&supported, 0, 1, false)
    };
    // A processor without gaps keeps all its features.
    let whole = offered(0);
    for entry in &whole[1..] {
        assert_eq!((entry.eax, entry.ebx, entry.ecx, entry.edx), (!0, !0, !0, !0), "{:#x}", entry.function);
    }
    // Without XSAVE there is neither AVX nor what needs AVX. Features that need only SSE stay.
    let (vaes, pclmulqdq, avx2, fma, gfni) = (1 << 9, 1 << 1, 1 << 5, 1 << 12, 1 << 8);
    for missing in [XSAVE, AVX] {
        let found = offered(missing);
        assert_eq!(found[0].ecx & (AVX | fma), 0);
        assert_eq!((found[1].ebx & avx2, found[1].ecx & vaes), (0, 0));
        assert_eq!(found[0].ecx & pclmulqdq, pclmulqdq);
        assert_eq!(found[1].ecx & gfni, gfni);
        assert_eq!(found[5].ecx & (1 << 11 | 1 << 16), 0);
        let is_state_described = found[3].eax != 0;
        assert_eq!(is_state_described, missing == AVX);
    }
}
