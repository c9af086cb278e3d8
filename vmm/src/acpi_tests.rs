//! Signatures, lengths, checksums and pointers of the tables.

use super::*;

const START: u64 = 0xe0000;

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn table(all: &[u8], address: u64) -> &[u8] {
    let at = (address - START) as usize;
    let len = number(all, at + 4, 4) as usize;
    let table = &all[at..at + len];
    assert_eq!(sum(table), 0, "checksum of {:?}", std::str::from_utf8(&table[..4]));
    table
}

#[test]
fn tables_point_at_each_other_and_sum_to_zero() {
    let all = tables(START, 16, 2, crate::layout::MAX_DEVICES);
    assert!(START + (all.len() as u64) < RESET_VECTOR);
    assert_eq!(&all[..8], b"RSD PTR ");
    assert_eq!((sum(&all[..20]), sum(&all[..36])), (0, 0));
    let xsdt = table(&all, number(&all, 24, 8));
    assert_eq!(&xsdt[..4], b"XSDT");
    assert_eq!(xsdt.len(), 36 + 16);

    let fadt = table(&all, number(xsdt, 36, 8));
    assert_eq!((&fadt[..4], fadt.len()), (&b"FACP"[..], 276));
    assert_ne!(number(fadt, 112, 4) & (1 << 20), 0, "hardware-reduced");
    assert_ne!(number(fadt, 109, 2) & (1 << 5), 0, "no CMOS RTC");
    assert_eq!(number(fadt, 120, 8), u64::from(POWER) + 2, "reset register");
    assert_eq!(number(fadt, 248, 8), u64::from(POWER), "sleep control register");

    let dsdt = table(&all, number(fadt, 140, 8));
    assert_eq!(&dsdt[..4], b"DSDT");
    let count = |text: &[u8]| dsdt.windows(text.len()).filter(|window| *window == text).count();
    assert_eq!(count(b"LNRO0005"), crate::layout::MAX_DEVICES);
    assert_eq!((count(b"COM1"), count(b"COM2"), count(b"ACPI0013"), count(b"_S5_")), (1, 1, 1, 1));

    let madt = table(&all, number(xsdt, 44, 8));
    assert_eq!(&madt[..4], b"APIC");
    assert_eq!(madt.len(), 44 + 16 * 8 + 12);
}

/// Writes the tables into the directory that the variable `ACPI_DUMP` names, for `iasl -d`.
#[test]
fn dump() {
    let Some(directory) = std::env::var_os("ACPI_DUMP") else { return };
    let all = tables(START, 2, 2, 3);
    let xsdt = table(&all, number(&all, 24, 8));
    let fadt = table(&all, number(xsdt, 36, 8));
    let madt = table(&all, number(xsdt, 44, 8));
    let dsdt = table(&all, number(fadt, 140, 8));
    for (name, bytes) in [("xsdt", xsdt), ("facp", fadt), ("apic", madt), ("dsdt", dsdt)] {
        std::fs::write(std::path::Path::new(&directory).join(format!("{name}.dat")), bytes).unwrap();
    }
}
