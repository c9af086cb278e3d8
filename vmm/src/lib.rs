//! The machine: guest memory, vCPUs, ACPI, buses, virtio-mmio, serial ports, boot and run loop.
//!
//! [`Machine`] is the main type. [`Machine::prepare`] takes a [`Config`] and begins to load the kernel and
//! to make the VM, while others open disks. [`Machine::new`] completes it with a list of virtio devices
//! and a list of serial back ends. Then the main loop drives the machine by awaiting its methods on its
//! executor, and receives events from [`Machine::event`]. Each vCPU is a thread of its own. These threads
//! reach devices through the buses, and the main loop through counters and eventfds, so that neither ever
//! waits for the other while it holds something that the other needs.
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

/// Confines the calling thread. Logs once if the kernel cannot confine it completely.
pub fn confine(role: sandbox::Role, mode: sandbox::Mode) {
    warn_of(&sandbox::confine(role, mode));
}

/// Takes rights that no thread ever needs from the whole program. Logs once if the kernel cannot do so.
pub fn confine_program(mode: sandbox::Mode) {
    warn_of(&sandbox::confine_program(mode));
}

fn warn_of(lacks: &sandbox::Lacks) {
    static SAID: std::sync::Once = std::sync::Once::new();
    if !lacks.is_nothing() {
        SAID.call_once(|| tracing::warn!("the sandbox is incomplete: this kernel has {lacks}"));
    }
}
