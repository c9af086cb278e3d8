//! Loads made-up kernels: an ELF with and without a PVH note, a bzImage, and files that are neither.

use std::path::PathBuf;

use linux_loader::loader::bootparam::{boot_params, setup_header};
use linux_loader::loader::start_info::{hvm_modlist_entry, hvm_start_info};
use tempfile::TempDir;
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryMmap};

use super::load::memory_map;
use super::*;
use crate::layout::{CMDLINE, GDT, PAGE_TABLES, START_INFO, ZERO_PAGE};
use crate::memory;
use crate::screen::Size;

const RSDP: u64 = 0xe_0000;
const CODE: &[u8] = b"\xf4code";

/// Returns an ELF file that loads [`CODE`] at 2 MiB.
fn elf(pvh: bool) -> Vec<u8> {
    let note: Vec<u8> = [4u32, 8, 18].iter().flat_map(|n| n.to_le_bytes()).collect();
    let note = [&note[..], b"Xen\0", &0x20_0003u64.to_le_bytes()].concat();
    let headers = if pvh { 2u16 } else { 1 };
    let code_at = 64 + 56 * 2;
    let note_at = code_at + CODE.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2u16, 62].iter().flat_map(|n| n.to_le_bytes()));
    file.extend(1u32.to_le_bytes());
    file.extend([0x20_0000u64, 64, 0].iter().flat_map(|n| n.to_le_bytes()));
    file.extend(0u32.to_le_bytes());
    file.extend([64u16, 56, headers, 0, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
    let mut header = |kind: u32, offset: u64, address: u64, len: u64, align: u64| {
        file.extend([kind, 5].iter().flat_map(|n| n.to_le_bytes()));
        file.extend([offset, address, address, len, len, align].iter().flat_map(|n| n.to_le_bytes()));
    };
    header(1, code_at, 0x20_0000, CODE.len() as u64, 4096);
    header(4, note_at, 0, note.len() as u64, 4);
    file.extend(CODE);
    file.extend(note);
    file
}

fn bzimage(edit: impl FnOnce(&mut setup_header)) -> Vec<u8> {
    let mut header = setup_header {
        setup_sects: 1,
        boot_flag: 0xaa55,
        header: u32::from_le_bytes(*b"HdrS"),
        version: 0x20f,
        loadflags: 1,
        code32_start: 0x10_0000,
        initrd_addr_max: 0x7fff_ffff,
        xloadflags: 1,
        cmdline_size: 100,
        pref_address: 0x100_0000,
        init_size: 0x200_0000,
        ..Default::default()
    };
    edit(&mut header);
    let mut file = vec![0; 1024];
    file[0x1f1..0x1f1 + header.as_slice().len()].copy_from_slice(header.as_slice());
    file.extend([0x90; 0x200]);
    file.extend(CODE);
    file
}

struct Rig(TempDir);

impl Rig {
    fn new() -> Self {
        Rig(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn load(&self, kernel: &[u8], initrd: &[u8], mib: u64) -> Result<(GuestMemoryMmap, Entry), Error> {
        self.load_with(kernel, initrd, mib, None)
    }

    fn load_with(
        &self,
        kernel: &[u8],
        initrd: &[u8],
        mib: u64,
        screen: Option<Size>,
    ) -> Result<(GuestMemoryMmap, Entry), Error> {
        let kernel = self.file("kernel", kernel);
        let initrd = self.file("initrd", initrd);
        let mut kernel = Kernel::open(&kernel, Some(&initrd), "console=ttyS0 quiet")?;
        let memory = memory::map(mib << 20)?;
        let entry = kernel.load(&memory, screen, RSDP)?;
        entry.write_tables(&memory).unwrap();
        Ok((std::sync::Arc::try_unwrap(memory).unwrap(), entry))
    }
}

fn text<const N: usize>(memory: &GuestMemoryMmap, at: u64) -> [u8; N] {
    let mut bytes = [0; N];
    memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
    bytes
}

#[test]
fn a_bzimage_is_entered_at_its_64_bit_entry() {
    let (memory, entry) = Rig::new().load(&bzimage(|_| {}), b"initrd", 4096).unwrap();
    assert_eq!(entry, Entry { protocol: Protocol::Linux64, address: 0x10_0200, parameters: ZERO_PAGE });
    assert_eq!(&text::<5>(&memory, 0x10_0200), CODE);
    assert_eq!(&text::<20>(&memory, CMDLINE), b"console=ttyS0 quiet\0");
    let page: boot_params = memory.read_obj(GuestAddress(ZERO_PAGE)).unwrap();
    let (rsdp, image, size) = (page.acpi_rsdp_addr, page.hdr.ramdisk_image, page.hdr.ramdisk_size);
    assert_eq!((rsdp, size), (RSDP, 6));
    assert_eq!(image, 0x7fff_f000, "as high as the kernel allows");
    assert_eq!(&text::<6>(&memory, image.into()), b"initrd");
    assert_eq!(page.e820_entries, 4);
    let last = page.e820_table[3];
    assert_eq!(({ last.addr }, { last.size }), (4 << 30, 1 << 30));

    // Long mode: 4 GiB map to themselves, and the code segment is a 64-bit one.
    let entry: u64 = memory.read_obj(GuestAddress(PAGE_TABLES + 0x2000 + 8 * 2047)).unwrap();
    assert_eq!(entry, ((4 << 30) - (2 << 20)) | 0x83);
    let code: u64 = memory.read_obj(GuestAddress(GDT + 0x10)).unwrap();
    assert_ne!(code & 1 << 53, 0);
}

#[test]
fn an_elf_kernel_is_entered_by_its_pvh_note_or_at_its_entry() {
    let rig = Rig::new();
    let (memory, entry) = rig.load(&elf(true), b"initrd", 64).unwrap();
    assert_eq!(entry, Entry { protocol: Protocol::Pvh, address: 0x20_0003, parameters: START_INFO });
    assert_eq!(&text::<5>(&memory, 0x20_0000), CODE);
    let info: hvm_start_info = memory.read_obj(GuestAddress(START_INFO)).unwrap();
    assert_eq!((info.magic, info.rsdp_paddr, info.cmdline_paddr), (0x336e_c578, RSDP, CMDLINE));
    assert_eq!((info.nr_modules, info.memmap_entries), (1, 3));
    let module: hvm_modlist_entry = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
    assert_eq!((module.paddr, module.size), ((64 << 20) - 4096, 6));

    let (memory, entry) = rig.load(&elf(false), b"", 64).unwrap();
    assert_eq!(entry, Entry { protocol: Protocol::Linux64, address: 0x20_0000, parameters: ZERO_PAGE });
    let page: boot_params = memory.read_obj(GuestAddress(ZERO_PAGE)).unwrap();
    assert_eq!({ page.hdr.cmd_line_ptr }, CMDLINE as u32);
}

#[test]
fn what_cannot_be_booted_is_refused_by_name() {
    let rig = Rig::new();
    let refused = |kernel: &[u8], initrd: &[u8], mib, file: &str, reason: &str| {
        let e = rig.load(kernel, initrd, mib).unwrap_err().to_string();
        assert!(e.contains(file) && e.contains(reason), "{e}");
    };
    refused(b"#!/bin/sh", b"", 64, "kernel", "give a vmlinuz or a vmlinux");
    refused(b"", b"", 64, "kernel", "neither");
    refused(&elf(true)[..100], b"", 64, "kernel", "is the file whole");
    refused(&bzimage(|header| header.xloadflags = 0), b"", 64, "kernel", "no 64-bit entry point");
    refused(&bzimage(|header| header.cmdline_size = 10), b"", 64, "kernel", "this kernel takes 10");
    refused(&bzimage(|_| {}), b"", 40, "kernel", "give at least 49 MiB");
    refused(&bzimage(|_| {}), &vec![0; 20 << 20], 64, "initrd", "give at least 69 MiB");
    let missing = Kernel::open(&rig.0.path().join("none"), None, "").err().unwrap().to_string();
    assert!(missing.contains("none: No such file"), "{missing}");
    let kernel = rig.file("kernel", &elf(true));
    assert!(Kernel::open(&kernel, None, "tab\tor\nline").err().unwrap().to_string().contains("command line"));
}

#[test]
fn the_memory_map_leaves_the_hole_out() {
    let memory = memory::map(4 << 30).unwrap();
    let ram: Vec<_> = memory_map(&memory)
        .iter()
        .filter(|range| range.kind == 1)
        .map(|range| (range.start, range.start + range.size))
        .collect();
    assert_eq!(ram, [(0, 0x9_fc00), (0x10_0000, 0xc000_0000), (0x1_0000_0000, 0x1_4000_0000)]);
}

#[test]
fn a_kernel_finds_the_screen_unless_it_is_entered_by_pvh() {
    let rig = Rig::new();
    let info = |kernel: &[u8], screen| {
        let (memory, _) = rig.load_with(kernel, b"", 64, screen).unwrap();
        let page: boot_params = memory.read_obj(GuestAddress(ZERO_PAGE)).unwrap();
        let info = page.screen_info;
        (info.orig_video_isVGA, info.lfb_base, info.lfb_size, info.lfb_width, info.lfb_height)
    };
    let size = Size::new(800, 600).unwrap();
    for kernel in [bzimage(|_| {}), elf(false)] {
        assert_eq!(info(&kernel, Some(size)), (0x70, 0xc000_0000, 600 * 4096, 800, 600));
        assert_eq!(info(&kernel, None), (0, 0, 0, 0, 0));
    }
    let refused = rig.load_with(&elf(true), b"", 64, Some(size)).unwrap_err().to_string();
    assert!(refused.contains("kernel: ") && refused.contains("no screen: give a bzImage"), "{refused}");
}
