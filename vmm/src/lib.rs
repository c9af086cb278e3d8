//! The machine: guest memory, vCPUs, ACPI, buses, virtio-mmio, serial ports, boot and run loop.
//!
//! [`Machine`] is the whole of it: begun with a [`Config`], which loads the kernel and makes the VM
//! while others open disks, finished with a list of virtio devices and a list of serial back ends,
//! driven by awaiting its methods on the main loop's executor, and heard through [`Machine::event`].
//! Each vCPU is a thread of its own; those threads reach devices through the buses, and the main loop
//! through counters and eventfds, so that neither ever waits for the other while it holds something
//! that the other needs.
//!
//! ```text
//! main loop (executor)            vCPU threads                    device threads
//!   Machine ── gate, signal ──▶ park / KVM_RUN / end
//!      ▲                           │ exits
//!      └── Notices (eventfd) ──────┤
//!   serial tasks ◀─ port buffers ──┤ port bus
//!                                  └ MMIO bus ─▶ Transport ─▶ Device::activate / reset ─▶ rings
//!                            ioeventfd, irqfd ◀───── (no vCPU thread involved) ──────────▶
//! ```

pub mod acpi;
pub mod boot;
pub mod bus;
pub mod cpuid;
mod error;
mod foundation;
mod gate;
pub mod hypervisor;
pub mod layout;
mod machine;
pub mod memory;
pub mod notice;
mod output;
pub mod ports;
pub mod serial;
mod vcpu;

pub use error::Error;
pub use hypervisor::check_host;
pub use machine::{Config, DEFAULT_CMDLINE, Machine, Prepared, State};
pub use notice::Event;

/// Confines the calling thread; if the kernel cannot, logs so once.
pub fn confine(role: sandbox::Role, mode: sandbox::Mode) {
    warn_of(&sandbox::confine(role, mode));
}

/// Takes from all threads of the program what none of them ever needs; if the kernel cannot, logs so once.
pub fn confine_program(mode: sandbox::Mode) {
    warn_of(&sandbox::confine_program(mode));
}

fn warn_of(lacks: &sandbox::Lacks) {
    static SAID: std::sync::Once = std::sync::Once::new();
    if !lacks.is_nothing() {
        SAID.call_once(|| tracing::warn!("the sandbox is incomplete: this kernel has {lacks}"));
    }
}
