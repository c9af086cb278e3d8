//! The screen: a frame buffer in a memory slot of its own, which the guest's kernel finds in `screen_info`.
//!
//! A line takes whole pages, so that a page that the guest has written is a line that has changed: KVM logs
//! which pages the guest writes. The log costs a fault for each page at its first write after a look at it;
//! while nobody looks, that is one fault for each page of the screen.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use executor::lock;
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use linux_loader::loader::bootparam::screen_info;
use vm_memory::MmapRegion;
use vm_memory::VolatileMemory;

use crate::error::Error;
use crate::layout::SCREEN;

/// Bytes of a pixel.
const PIXEL: usize = 4;

/// The size of a page, which is also the unit of the log.
const PAGE: usize = 4096;

/// VIDEO_TYPE_EFI of Linux's include/uapi/linux/screen_info.h. Linux's efifb takes such a frame buffer
/// whether there is EFI firmware or not.
const VIDEO_TYPE_EFI: u8 = 0x70;

/// The size of a screen in pixels: 640x480 to 2560x1600.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    width: u16,
    height: u16,
}

impl Size {
    /// Returns a size of `width` by `height` pixels.
    ///
    /// # Errors
    /// [`Error::Screen`] if no screen has that size.
    pub fn new(width: u32, height: u32) -> Result<Self, Error> {
        if !(640..=2560).contains(&width) || !(480..=1600).contains(&height) {
            return Err(Error::Screen { width, height });
        }
        Ok(Size { width: width as u16, height: height as u16 })
    }

    /// Returns the number of pixels of a line.
    pub fn width(&self) -> usize {
        self.width.into()
    }

    /// Returns the number of lines.
    pub fn height(&self) -> usize {
        self.height.into()
    }

    /// Returns the number of pages that a line takes.
    fn pages(&self) -> usize {
        (self.width() * PIXEL).div_ceil(PAGE)
    }

    /// Returns the number of bytes from one line to the next.
    fn stride(&self) -> usize {
        self.pages() * PAGE
    }

    /// Returns the number of bytes that all lines take.
    fn bytes(&self) -> usize {
        self.stride() * self.height()
    }

    /// Returns the description of the frame buffer for a kernel that is entered by Linux's boot protocol.
    /// For this type `lfb_size` is in bytes (drivers/firmware/sysfb_simplefb.c, drivers/video/fbdev/efifb.c).
    pub(crate) fn screen_info(&self) -> screen_info {
        screen_info {
            orig_video_isVGA: VIDEO_TYPE_EFI,
            lfb_width: self.width,
            lfb_height: self.height,
            lfb_depth: 32,
            lfb_base: SCREEN as u32,
            lfb_size: self.bytes() as u32,
            lfb_linelength: self.stride() as u16,
            blue_size: 8,
            blue_pos: 0,
            green_size: 8,
            green_pos: 8,
            red_size: 8,
            red_pos: 16,
            rsvd_size: 8,
            rsvd_pos: 24,
            pages: 1,
            ..Default::default()
        }
    }
}

impl Default for Size {
    /// 1024x768, whose lines are a page each.
    fn default() -> Self {
        Size { width: 1024, height: 768 }
    }
}

/// A guest's screen. Its pixels may change at any time, since the guest draws them.
///
/// Any thread may read pixels. Only one should ask for [`Screen::take_changes`], because each change is
/// reported once. Nothing here waits for the guest.
pub struct Screen {
    size: Size,
    memory: MmapRegion,
    /// The VM that has the log, and the number of its slot, while there is one.
    log: Mutex<Option<(Arc<VmFd>, u32)>>,
    /// True if all lines have changed without the log knowing it: at the start and after a reset.
    all_changed: AtomicBool,
}

impl Screen {
    /// Returns a black screen. The host allocates its pages when the guest first draws there.
    ///
    /// # Errors
    /// Fails if the address space is exhausted.
    pub(crate) fn new(size: Size) -> Result<Self, Error> {
        let memory = MmapRegion::new(size.bytes())
            .map_err(|e| Error::System { what: "the screen's memory", source: io::Error::other(e) })?;
        Ok(Screen { size, memory, log: Mutex::default(), all_changed: AtomicBool::new(true) })
    }

    /// Returns its size.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Copies the pixels of line `line`, from the left, as far as there are both pixels and room: red in bits
    /// 16 to 23, green in 8 to 15, blue below, and anything above. Does nothing if there is no such line.
    pub fn read_line(&self, line: usize, pixels: &mut [u32]) {
        if line >= self.size.height() {
            return;
        }
        let len = pixels.len().min(self.size.width());
        // The range lies inside of the mapping, because the line exists.
        if let Ok(bytes) = self.memory.get_slice(line * self.size.stride(), len * PIXEL) {
            bytes.copy_to(&mut pixels[..len]);
        }
    }

    /// Sets an element of `lines` to true for each line that may have changed since the last call, and leaves
    /// the others as they are. All lines count as changed at the first call and after a reset of the machine.
    ///
    /// # Errors
    /// Fails if KVM does; then all lines count as changed at the next call.
    pub fn take_changes(&self, lines: &mut [bool]) -> io::Result<()> {
        if self.all_changed.swap(false, Ordering::Relaxed) {
            lines.fill(true);
        }
        // The log is read outside of the lock, for which the main loop may wait.
        let log = lock(&self.log).clone();
        let Some((vm, slot)) = log else { return Ok(()) };
        let pages = vm.get_dirty_log(slot, self.size.bytes()).map_err(|e| {
            self.all_changed.store(true, Ordering::Relaxed);
            io::Error::from_raw_os_error(e.errno())
        })?;
        mark_lines(&pages, self.size.pages(), lines);
        Ok(())
    }

    /// Makes the screen black. Nobody may draw meanwhile: the vCPUs must have ended.
    pub(crate) fn clear(&self) -> Result<(), Error> {
        let (start, len) = (self.memory.as_ptr(), self.memory.size());
        // SAFETY: the range is exactly one private anonymous mapping, which `self` keeps alive. Its pages are
        // replaced by zero pages, and a guest's screen may change under every reader anyway.
        if unsafe { libc::madvise(start.cast(), len, libc::MADV_DONTNEED) } != 0 {
            return Err(Error::system("clearing the screen")(io::Error::last_os_error()));
        }
        self.all_changed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Adds the screen to a VM as its slot `slot`. The screen must be kept longer than the VM.
    pub(crate) fn add_to(&self, vm: &VmFd, slot: u32) -> Result<(), Error> {
        let region = kvm_userspace_memory_region {
            slot,
            flags: KVM_MEM_LOG_DIRTY_PAGES,
            guest_phys_addr: SCREEN,
            memory_size: self.size.bytes() as u64,
            userspace_addr: self.memory.as_ptr() as u64,
        };
        // SAFETY: the mapping belongs to the screen, which the machine keeps longer than its VM; it lies in
        // the hole for devices, where no RAM is, and nobody on the host holds references into it.
        unsafe { vm.set_user_memory_region(region) }.map_err(Error::kvm("the screen's memory"))
    }

    /// Takes changes from the log of this VM from now on, or from none.
    pub(crate) fn follow(&self, log: Option<(Arc<VmFd>, u32)>) {
        *lock(&self.log) = log;
        self.all_changed.store(true, Ordering::Relaxed);
    }
}

/// Sets the elements of the lines that the log's pages belong to.
fn mark_lines(log: &[u64], pages: usize, lines: &mut [bool]) {
    for (index, word) in log.iter().enumerate() {
        let mut rest = *word;
        while rest != 0 {
            let page = index * 64 + rest.trailing_zeros() as usize;
            if let Some(line) = lines.get_mut(page / pages) {
                *line = true;
            }
            rest &= rest - 1;
        }
    }
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
