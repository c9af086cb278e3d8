//! Buses, which map addresses to devices. There is one for MMIO and one for I/O ports. Each is built once
//! for each start of the machine and shared by all vCPU threads without a lock.

use std::sync::Arc;

/// A device on a bus. Several vCPU threads may call it at once. Offsets and data come from the guest and
/// have any size that fits into the device's window; nothing in them may cause a panic.
pub trait Target: Send + Sync {
    /// Reads from `offset` within the window into `data`.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Writes `data` at `offset` within the window.
    fn write(&self, offset: u64, data: &[u8]);
}

impl Target for virtio::mmio::Transport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.write(offset, data);
    }
}

struct Window {
    start: u64,
    len: u64,
    target: Arc<dyn Target>,
}

/// A table of windows in ascending order that do not overlap.
#[derive(Default)]
pub struct Bus {
    windows: Vec<Window>,
}

impl Bus {
    /// Returns a bus without windows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Maps `len` bytes from address `start` on to `target`.
    ///
    /// # Panics
    /// Panics if the window overlaps another one. The layout depends on the host only, never on the guest.
    pub fn add(&mut self, start: u64, len: u64, target: Arc<dyn Target>) {
        let at = self.windows.partition_point(|window| window.start < start);
        let free_before = at == 0 || {
            let before = &self.windows[at - 1];
            before.start + before.len <= start
        };
        let free_behind = self.windows.get(at).is_none_or(|behind| start + len <= behind.start);
        assert!(free_before && free_behind, "windows overlap at {start:#x}");
        self.windows.insert(at, Window { start, len, target });
    }

    fn find(&self, address: u64, len: usize) -> Option<(&dyn Target, u64)> {
        let at = self.windows.partition_point(|window| window.start <= address).checked_sub(1)?;
        let window = &self.windows[at];
        let offset = address - window.start;
        let end = offset.checked_add(len as u64)?;
        (end <= window.len).then_some((&*window.target, offset))
    }

    /// Reads `data`. If no window contains the whole access, all bits read as ones.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((target, offset)) => target.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Reads as a string instruction does: each element of `size` bytes is a separate access to `address`.
    pub fn read_elements(&self, address: u64, size: usize, data: &mut [u8]) {
        data.chunks_mut(size.max(1)).for_each(|element| self.read(address, element));
    }

    /// Writes as a string instruction does, see [`Bus::read_elements`].
    pub fn write_elements(&self, address: u64, size: usize, data: &[u8]) {
        data.chunks(size.max(1)).for_each(|element| self.write(address, element));
    }

    /// Writes `data`. If no window contains the whole access, nothing happens.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((target, offset)) = self.find(address, data.len()) {
            target.write(offset, data);
        }
    }
}

#[cfg(test)]
#[path = "bus_tests.rs"]
mod tests;
