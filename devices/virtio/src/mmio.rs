//! The virtio-mmio transport: the register file of virtio 1.2, section 4.2.2 (version 2), over any
//! [`Device`].
//!
//! Everything written here comes from a guest that may be hostile: registers in any order, at any rate and
//! width. The reaction is an ignored write or DEVICE_NEEDS_RESET, never a panic. Writing 0 to Status blocks
//! the vCPU until the device has finished its I/O, because Linux's driver continues at once and frees its
//! buffers.
//!
//! | status on entry | event | effect |
//! |---|---|---|
//! | any | Status = 0 | [`Device::reset`], all registers as at power-on |
//! | DRIVER, no FEATURES_OK | FEATURES_OK | accepted if they are some of those offered, with VERSION_1 |
//! | FEATURES_OK, no DRIVER_OK | DRIVER_OK | queues checked, [`Device::activate`]; else DEVICE_NEEDS_RESET |
//! | DRIVER_OK | QueueReady = 0 on a live queue | the device is stopped as by a reset, DEVICE_NEEDS_RESET |

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use executor::{Reply, lock};

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{Activation, Device, Interrupt, ReadyQueue};

/// Registers (virtio 1.2, table 4.1). The values are the specification's; the names are ours.
mod register {
    pub const MAGIC: u64 = 0x00;
    pub const VERSION: u64 = 0x04;
    pub const DEVICE_ID: u64 = 0x08;
    pub const VENDOR_ID: u64 = 0x0c;
    pub const DEVICE_FEATURES: u64 = 0x10;
    pub const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub const DRIVER_FEATURES: u64 = 0x20;
    pub const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub const QUEUE_SEL: u64 = 0x30;
    pub const QUEUE_NUM_MAX: u64 = 0x34;
    pub const QUEUE_NUM: u64 = 0x38;
    pub const QUEUE_READY: u64 = 0x44;
    pub const QUEUE_NOTIFY: u64 = 0x50;
    pub const INTERRUPT_STATUS: u64 = 0x60;
    pub const INTERRUPT_ACK: u64 = 0x64;
    pub const STATUS: u64 = 0x70;
    pub const QUEUE_DESC_LOW: u64 = 0x80;
    pub const QUEUE_DESC_HIGH: u64 = 0x84;
    pub const QUEUE_DRIVER_LOW: u64 = 0x90;
    pub const QUEUE_DRIVER_HIGH: u64 = 0x94;
    pub const QUEUE_DEVICE_LOW: u64 = 0xa0;
    pub const QUEUE_DEVICE_HIGH: u64 = 0xa4;
    pub const SHM_LEN_LOW: u64 = 0xb0;
    pub const SHM_BASE_HIGH: u64 = 0xbc;
    pub const CONFIG_GENERATION: u64 = 0xfc;
    pub const CONFIG: u64 = 0x100;
}
use register::*;

/// Offset within the window to which a driver writes a queue's number to notify the device.
pub const QUEUE_NOTIFY_OFFSET: u64 = QUEUE_NOTIFY;

const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
const NEEDS_RESET: u32 = 64;
const FAILED: u32 = 128;

const USED_BUFFER: u32 = 1;
const CONFIG_CHANGE: u32 = 2;

const VERSION_1: u64 = 1 << 32;
const EVENT_IDX: u64 = 1 << 29;

/// The device's side of the interrupt line, shared with the device's thread.
struct Line {
    status: AtomicU32,
    needs_reset: AtomicBool,
    /// An irqfd: each write is an edge.
    event: EventFd,
}

impl Line {
    fn raise(&self, cause: u32) {
        // Raised even if the bit is set already: the driver may have read the register but not acknowledged
        // it yet. An edge that it does not need costs it one read.
        self.status.fetch_or(cause, Ordering::AcqRel);
        // Fails only when the counter is full, and then the edge is on its way.
        let _ = self.event.write(1);
    }
}

impl Interrupt for Line {
    fn used(&self, _index: u16) {
        self.raise(USED_BUFFER);
    }

    fn config_changed(&self) {
        self.raise(CONFIG_CHANGE);
    }

    fn needs_reset(&self) {
        self.needs_reset.store(true, Ordering::Release);
        // Virtio 1.2, 2.1.2: the device sends a configuration change notification then.
        self.raise(CONFIG_CHANGE);
    }
}

/// One queue's registers, as written. Checked at DRIVER_OK, not before.
#[derive(Clone, Copy, Default)]
struct QueueRegisters {
    size: u32,
    ready: bool,
    descriptors: u64,
    driver: u64,
    device: u64,
}

#[derive(Default)]
struct Registers {
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    queues: Vec<QueueRegisters>,
}

struct State {
    device: Box<dyn Device>,
    registers: Registers,
}

/// A virtio device behind a window of the MMIO bus.
pub struct Transport {
    state: Mutex<State>,
    line: Arc<Line>,
    memory: Arc<GuestMemoryMmap>,
    sizes: Vec<u16>,
    kicks: Vec<EventFd>,
}

impl Transport {
    /// Returns a transport for `device` over `memory`.
    ///
    /// # Errors
    /// Fails if a queue size is not a power of two up to 32768, or if the process is out of file
    /// descriptors.
    pub fn new(device: Box<dyn Device>, memory: Arc<GuestMemoryMmap>) -> io::Result<Self> {
        let sizes = device.queue_sizes();
        if let Some(size) = sizes.iter().find(|size| Queue::new(**size).is_err()) {
            return Err(io::Error::other(format!("a queue of {size}: give a power of two up to 32768")));
        }
        let kicks = sizes.iter().map(|_| EventFd::new(EFD_NONBLOCK)).collect::<io::Result<_>>()?;
        let line = Line {
            status: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            event: EventFd::new(EFD_NONBLOCK)?,
        };
        let registers =
            Registers { queues: vec![QueueRegisters::default(); sizes.len()], ..Default::default() };
        let state = Mutex::new(State { device, registers });
        Ok(Transport { state, line: Arc::new(line), memory, sizes, kicks })
    }

    /// Returns copies of the interrupt line's eventfd, and of each queue's notification eventfd.
    pub fn events(&self) -> io::Result<(EventFd, Vec<EventFd>)> {
        let kicks = self.kicks.iter().map(EventFd::try_clone).collect::<io::Result<_>>()?;
        Ok((self.line.event.try_clone()?, kicks))
    }

    /// Returns to the power-on state. Blocks until the device has finished its I/O.
    pub fn reset(&self) {
        self.reset_locked(&mut lock(&self.state));
    }

    /// See [`Device::pause`]. The caller must make sure that no vCPU is inside the device.
    pub fn pause(&self) -> Reply<()> {
        lock(&self.state).device.pause()
    }

    /// See [`Device::resume`]. The caller must make sure that no vCPU is inside the device.
    pub fn resume(&self) {
        lock(&self.state).device.resume();
    }

    fn reset_locked(&self, state: &mut State) {
        self.stop(state);
        let queues = vec![QueueRegisters::default(); self.sizes.len()];
        state.registers = Registers { queues, ..Default::default() };
        self.line.status.store(0, Ordering::Release);
        self.line.needs_reset.store(false, Ordering::Release);
    }

    fn stop(&self, state: &mut State) {
        // Also if it is not active: the driver may have written config space before DRIVER_OK.
        state.device.reset();
        for kick in &self.kicks {
            // Fails if nobody has written to it.
            let _ = kick.read();
        }
    }

    fn read_register(&self, state: &State, offset: u64) -> u32 {
        let registers = &state.registers;
        let index = registers.queue_sel as usize;
        match offset {
            MAGIC => u32::from_le_bytes(*b"virt"),
            VERSION => 2,
            DEVICE_ID => state.device.id(),
            VENDOR_ID => u32::from_le_bytes(*b"MILL"),
            DEVICE_FEATURES => half(state.device.features(), registers.device_features_sel),
            QUEUE_NUM_MAX => self.sizes.get(index).copied().unwrap_or(0).into(),
            QUEUE_READY => registers.queues.get(index).is_some_and(|queue| queue.ready).into(),
            INTERRUPT_STATUS => self.line.status.load(Ordering::Acquire),
            STATUS if self.line.needs_reset.load(Ordering::Acquire) => registers.status | NEEDS_RESET,
            STATUS => registers.status,
            // No shared memory regions: their length is all ones (4.2.2).
            SHM_LEN_LOW..=SHM_BASE_HIGH => u32::MAX,
            CONFIG_GENERATION => state.device.config_generation(),
            _ => 0,
        }
    }

    fn write_register(&self, state: &mut State, offset: u64, value: u32) {
        let registers = &mut state.registers;
        let negotiating = registers.status & (DRIVER | FEATURES_OK) == DRIVER;
        let live = registers.status & DRIVER_OK != 0;
        match offset {
            DEVICE_FEATURES_SEL => registers.device_features_sel = value,
            DRIVER_FEATURES_SEL => registers.driver_features_sel = value,
            DRIVER_FEATURES if negotiating => {
                set_half(&mut registers.driver_features, registers.driver_features_sel, value);
            }
            QUEUE_SEL => registers.queue_sel = value,
            QUEUE_NOTIFY => {
                // Only writes that no ioeventfd matched come here.
                if let Some(kick) = self.kicks.get(value as usize) {
                    let _ = kick.write(1);
                }
            }
            INTERRUPT_ACK => {
                self.line.status.fetch_and(!value, Ordering::AcqRel);
            }
            STATUS if value == 0 => self.reset_locked(state),
            STATUS => self.write_status(state, value),
            _ => {
                let index = registers.queue_sel as usize;
                let Some(queue) = registers.queues.get_mut(index) else { return };
                if live {
                    if offset == QUEUE_READY && value == 0 && queue.ready {
                        // No device of ours can stop a single queue, and the driver may free the ring's
                        // memory now.
                        queue.ready = false;
                        self.stop(state);
                        self.line.needs_reset();
                    }
                    return;
                }
                match offset {
                    QUEUE_NUM => queue.size = value,
                    QUEUE_READY => queue.ready = value & 1 != 0,
                    QUEUE_DESC_LOW => set_half(&mut queue.descriptors, 0, value),
                    QUEUE_DESC_HIGH => set_half(&mut queue.descriptors, 1, value),
                    QUEUE_DRIVER_LOW => set_half(&mut queue.driver, 0, value),
                    QUEUE_DRIVER_HIGH => set_half(&mut queue.driver, 1, value),
                    QUEUE_DEVICE_LOW => set_half(&mut queue.device, 0, value),
                    QUEUE_DEVICE_HIGH => set_half(&mut queue.device, 1, value),
                    _ => {}
                }
            }
        }
    }

    /// Sets status bits. Clearing a bit other than by a reset is ignored (2.1.1).
    fn write_status(&self, state: &mut State, value: u32) {
        let registers = &mut state.registers;
        registers.status |= value & (ACKNOWLEDGE | DRIVER | FAILED);
        if value & FEATURES_OK != 0 && registers.status & (DRIVER | FEATURES_OK) == DRIVER {
            let accepted = registers.driver_features;
            if accepted & !state.device.features() == 0 && accepted & VERSION_1 != 0 {
                registers.status |= FEATURES_OK;
            }
        }
        if value & DRIVER_OK != 0 && registers.status & (FEATURES_OK | DRIVER_OK | FAILED) == FEATURES_OK {
            registers.status |= DRIVER_OK;
            let done =
                self.activation(&state.registers).and_then(|activation| state.device.activate(activation));
            if let Err(e) = done {
                executor::limited!(warn, "virtio device {}: not started: {e}", state.device.id());
                // A device that failed half way has nothing in flight when this returns.
                state.device.reset();
                self.line.needs_reset();
            }
        }
    }

    fn activation(&self, registers: &Registers) -> io::Result<Activation> {
        let mut queues = Vec::new();
        for (index, wanted) in registers.queues.iter().enumerate().filter(|(_, queue)| queue.ready) {
            let invalid = || io::Error::other(format!("queue {index} is set up wrongly"));
            let mut queue = Queue::new(self.sizes[index]).map_err(|_| invalid())?;
            let size = u16::try_from(wanted.size).map_err(|_| invalid())?;
            queue.try_set_size(size).map_err(|_| invalid())?;
            queue.try_set_desc_table_address(GuestAddress(wanted.descriptors)).map_err(|_| invalid())?;
            queue.try_set_avail_ring_address(GuestAddress(wanted.driver)).map_err(|_| invalid())?;
            queue.try_set_used_ring_address(GuestAddress(wanted.device)).map_err(|_| invalid())?;
            queue.set_event_idx(registers.driver_features & EVENT_IDX != 0);
            queue.set_ready(true);
            if !in_memory(&queue, &self.memory) {
                return Err(invalid());
            }
            queues.push(ReadyQueue { index: index as u16, queue, kick: self.kicks[index].try_clone()? });
        }
        Ok(Activation {
            memory: self.memory.clone(),
            features: registers.driver_features,
            queues,
            interrupt: self.line.clone(),
        })
    }
}

/// Returns true if the rings lie in guest memory.
fn in_memory(queue: &Queue, memory: &GuestMemoryMmap) -> bool {
    // Beyond any ring; keeps additions below from overflowing, here and in every later user.
    let sane = |address: u64| address < 1 << 52;
    sane(queue.desc_table()) && sane(queue.avail_ring()) && sane(queue.used_ring()) && queue.is_valid(memory)
}

/// Returns the half of a 64-bit value that a selector names, or 0 for other selectors.
fn half(value: u64, selector: u32) -> u32 {
    match selector {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_half(target: &mut u64, selector: u32, value: u32) {
    match selector {
        0 => *target = *target & !0xffff_ffff | u64::from(value),
        1 => *target = *target & 0xffff_ffff | u64::from(value) << 32,
        _ => {}
    }
}

impl Transport {
    /// Reads registers or config space at `offset` within the window. Any size and offset is allowed;
    /// anything that is not a register reads as zero.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let state = lock(&self.state);
        if let Some(offset) = offset.checked_sub(CONFIG) {
            data.fill(0);
            state.device.read_config(offset, data);
            return;
        }
        // Registers are read by aligned 32-bit accesses only (4.2.2.2); others read as zero.
        match <&mut [u8; 4]>::try_from(&mut *data) {
            Ok(value) if offset.is_multiple_of(4) => {
                *value = self.read_register(&state, offset).to_le_bytes();
            }
            _ => data.fill(0),
        }
    }

    /// Writes registers or config space at `offset` within the window. Any size and offset is allowed;
    /// writes to anything that is not a register are ignored.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let mut state = lock(&self.state);
        if let Some(offset) = offset.checked_sub(CONFIG) {
            state.device.write_config(offset, data);
        } else if let Ok(value) = <[u8; 4]>::try_from(data)
            && offset.is_multiple_of(4)
        {
            self.write_register(&mut state, offset, u32::from_le_bytes(value));
        }
    }
}

#[cfg(test)]
#[path = "mmio_tests.rs"]
mod tests;
