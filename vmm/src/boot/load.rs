//! Loads the kernel, its initrd, its command line and the parameters that describe the machine to it.

use std::io::{Seek, SeekFrom};

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use linux_loader::loader::{BzImage, Elf, KernelLoader, load_cmdline};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::{Entry, Format, Kernel, Protocol, refuse};
use crate::error::Error;
use crate::layout::{CMDLINE, EBDA, HIGH_MEMORY, LOW_RAM_END, START_INFO, START_INFO_TABLES, ZERO_PAGE};
use crate::screen::Size;

/// An initrd's range in guest memory; its size is 0 if there is none.
#[derive(Clone, Copy, Default)]
struct Initrd {
    address: u64,
    size: u64,
}

/// A range of guest memory. `kind` is its type as e820 and Xen number it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) size: u64,
    pub(super) kind: u32,
}

const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// Returns the memory map that is passed to the guest. The ACPI tables lie in its reserved range.
pub(super) fn memory_map(memory: &GuestMemoryMmap) -> Vec<Range> {
    let mut map = vec![
        Range { start: 0, size: EBDA, kind: RAM },
        Range { start: EBDA, size: HIGH_MEMORY - EBDA, kind: RESERVED },
    ];
    for region in memory.iter() {
        let start = region.start_addr().raw_value().max(HIGH_MEMORY);
        let end = region.start_addr().raw_value() + region.len();
        map.push(Range { start, size: end - start, kind: RAM });
    }
    map
}

/// Returns the end of the RAM that is contiguous from address 0.
fn low_end(memory: &GuestMemoryMmap) -> u64 {
    memory.iter().next().map_or(0, |region| region.len()).min(LOW_RAM_END)
}

impl Kernel {
    /// Loads everything into zeroed memory and returns the kernel's entry point. `rsdp` is the RSDP's
    /// address. `screen` is the size of the machine's screen.
    ///
    /// # Errors
    /// Fails if the kernel does not fit or has no 64-bit entry point, if the initrd does not fit, if the
    /// command line is too long for this kernel, or if there is a screen and the kernel is entered by PVH,
    /// which has no description of one. Each error names its file.
    pub fn load(
        &mut self,
        memory: &GuestMemoryMmap,
        screen: Option<Size>,
        rsdp: u64,
    ) -> Result<Entry, Error> {
        match self.format {
            Format::BzImage => self.load_bzimage(memory, screen, rsdp),
            Format::Elf => self.load_elf(memory, screen, rsdp),
        }
    }

    fn load_bzimage(
        &mut self,
        memory: &GuestMemoryMmap,
        screen: Option<Size>,
        rsdp: u64,
    ) -> Result<Entry, Error> {
        let path = self.path.clone();
        let high = GuestAddress(HIGH_MEMORY);
        let loaded = BzImage::load(memory, None, &mut self.file, Some(high))
            .map_err(|e| refuse(&path, format!("{e}: is the file whole, and is there memory for it?")))?;
        let header = loaded.setup_header.ok_or_else(|| refuse(&path, "a bzImage without a header"))?;
        // The 64-bit entry point requires protocol 2.12 and XLF_KERNEL_64. It lies 0x200 behind the 32-bit
        // one.
        let (version, flags) = (header.version, header.xloadflags);
        if version < 0x20c || flags & 1 == 0 {
            return Err(refuse(&path, "no 64-bit entry point: give an x86-64 kernel of Linux 3.8 or later"));
        }
        self.load_cmdline(memory, header.cmdline_size as usize)?;
        // The kernel decompresses itself at its preferred address, or at its load address if that is
        // higher.
        let load = loaded.kernel_load.raw_value();
        let end = load.max(header.pref_address) + u64::from(header.init_size);
        let initrd = self.load_initrd(memory, end, u64::from(header.initrd_addr_max) + 1)?;
        self.write_zero_page(memory, header, initrd, screen, rsdp)?;
        Ok(Entry { protocol: Protocol::Linux64, address: load + 0x200, parameters: ZERO_PAGE })
    }

    fn load_elf(
        &mut self,
        memory: &GuestMemoryMmap,
        screen: Option<Size>,
        rsdp: u64,
    ) -> Result<Entry, Error> {
        let path = self.path.clone();
        let high = GuestAddress(HIGH_MEMORY);
        let loaded = Elf::load(memory, None, &mut self.file, Some(high))
            .map_err(|e| refuse(&path, format!("{e}: is the file whole, and is there memory for it?")))?;
        // COMMAND_LINE_SIZE of Linux on x86, its final zero excluded.
        self.load_cmdline(memory, 2047)?;
        let initrd = self.load_initrd(memory, loaded.kernel_end, LOW_RAM_END)?;
        if let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap {
            if screen.is_some() {
                return Err(refuse(
                    &path,
                    "an ELF kernel that is entered by PVH has no screen: give a bzImage",
                ));
            }
            self.write_start_info(memory, initrd, rsdp)?;
            return Ok(Entry { protocol: Protocol::Pvh, address: entry.raw_value(), parameters: START_INFO });
        }
        let header = setup_header {
            boot_flag: 0xaa55,
            header: u32::from_le_bytes(*b"HdrS"),
            version: 0x20c,
            kernel_alignment: 0x100_0000,
            ..Default::default()
        };
        self.write_zero_page(memory, header, initrd, screen, rsdp)?;
        Ok(Entry {
            protocol: Protocol::Linux64,
            address: loaded.kernel_load.raw_value(),
            parameters: ZERO_PAGE,
        })
    }

    fn load_cmdline(&self, memory: &GuestMemoryMmap, most: usize) -> Result<(), Error> {
        let len = self.cmdline.as_cstring().map_err(|e| refuse(&self.path, e))?.as_bytes().len();
        if len > most {
            let reason = format!("a command line of {len} bytes: this kernel takes {most}");
            return Err(refuse(&self.path, reason));
        }
        load_cmdline(memory, GuestAddress(CMDLINE), &self.cmdline).map_err(|e| refuse(&self.path, e))
    }

    /// Loads the initrd above `kernel_end`, as high as the kernel (`limit`) and memory allow.
    fn load_initrd(
        &mut self,
        memory: &GuestMemoryMmap,
        kernel_end: u64,
        limit: u64,
    ) -> Result<Initrd, Error> {
        let top = low_end(memory).min(limit);
        let too_small = |path, size: u64| {
            let needed = (kernel_end + size).div_ceil(1 << 20) + 1;
            refuse(path, format!("does not fit into {} MiB: give at least {needed} MiB", top >> 20))
        };
        if kernel_end > top {
            return Err(too_small(&self.path, 0));
        }
        let Some((path, file)) = &mut self.initrd else { return Ok(Initrd::default()) };
        let size = file.seek(SeekFrom::End(0)).map_err(|e| refuse(path, e))?;
        file.rewind().map_err(|e| refuse(path, e))?;
        let address = match top.checked_sub(size) {
            Some(address) if address & !0xfff >= kernel_end => address & !0xfff,
            _ => return Err(too_small(path, size)),
        };
        memory
            .read_exact_volatile_from(GuestAddress(address), file, size as usize)
            .map_err(|e| refuse(path, e))?;
        Ok(Initrd { address, size })
    }

    fn write_zero_page(
        &self,
        memory: &GuestMemoryMmap,
        header: setup_header,
        initrd: Initrd,
        screen: Option<Size>,
        rsdp: u64,
    ) -> Result<(), Error> {
        let mut page = boot_params { hdr: header, acpi_rsdp_addr: rsdp, ..Default::default() };
        // 0xff stands for a boot loader without an assigned number.
        page.hdr.type_of_loader = 0xff;
        page.hdr.cmd_line_ptr = CMDLINE as u32;
        page.hdr.ramdisk_image = initrd.address as u32;
        page.hdr.ramdisk_size = initrd.size as u32;
        if let Some(screen) = screen {
            page.screen_info = screen.screen_info();
        }
        let map = memory_map(memory);
        page.e820_entries = map.len() as u8;
        let mut table = page.e820_table;
        for (entry, range) in table.iter_mut().zip(&map) {
            *entry = boot_e820_entry { addr: range.start, size: range.size, r#type: range.kind };
        }
        page.e820_table = table;
        LinuxBootConfigurator::write_bootparams(&BootParams::new(&page, GuestAddress(ZERO_PAGE)), memory)
            .map_err(|e| refuse(&self.path, e))
    }

    fn write_start_info(&self, memory: &GuestMemoryMmap, initrd: Initrd, rsdp: u64) -> Result<(), Error> {
        let map: Vec<_> = memory_map(memory)
            .into_iter()
            .map(|range| hvm_memmap_table_entry {
                addr: range.start,
                size: range.size,
                type_: range.kind,
                reserved: 0,
            })
            .collect();
        let modules: Vec<_> = (initrd.size > 0)
            .then_some(hvm_modlist_entry { paddr: initrd.address, size: initrd.size, ..Default::default() })
            .into_iter()
            .collect();
        let map_address = START_INFO_TABLES + 0x100;
        let info = hvm_start_info {
            magic: 0x336e_c578,
            version: 1,
            nr_modules: modules.len() as u32,
            modlist_paddr: if modules.is_empty() { 0 } else { START_INFO_TABLES },
            cmdline_paddr: CMDLINE,
            rsdp_paddr: rsdp,
            memmap_paddr: map_address,
            memmap_entries: map.len() as u32,
            ..Default::default()
        };
        let mut parameters = BootParams::new(&info, GuestAddress(START_INFO));
        parameters.set_sections(&map, GuestAddress(map_address));
        if !modules.is_empty() {
            parameters.set_modules(&modules, GuestAddress(START_INFO_TABLES));
        }
        PvhBootConfigurator::write_bootparams(&parameters, memory).map_err(|e| refuse(&self.path, e))
    }
}
