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
//!
//! # Modules, in reading order
//!
//! - `machine`: the value that the main loop drives
//! - `boot_parts`: the parts that exist before the devices: [`memory`] with a kernel in it, and a VM
//! - [`layout`]: addresses, I/O ports and interrupts
//! - [`hypervisor`]: KVM, the VM and its interrupt lines and doorbells
//! - [`boot`]: loads the kernel and sets the boot CPU's registers
//! - [`acpi`], [`cpuid`]: the description of the machine for the guest
//! - `vcpu`: the threads that run the guest; `gate`: the one place where they stop
//! - [`bus`]: from addresses to devices; [`ports`]: the devices at I/O ports
//! - [`screen`]: the frame buffer, and which of its lines have changed
//! - [`serial`]: the UART and the back ends that carry its bytes
//! - [`notice`]: events from other threads to the main loop
//! - `output`: files that the program writes; `error`: the errors
//!
//! # Example
//!
//! ```no_run
//! use vmm::serial::Backend;
//! use vmm::{Config, DEFAULT_CMDLINE, Event, Machine};
//!
//! async fn run() -> Result<(), vmm::Error> {
//!     let config = Config {
//!         kernel: "vmlinuz".into(),
//!         initrd: Some("initrd".into()),
//!         cmdline: DEFAULT_CMDLINE.into(),
//!         cpus: 2,
//!         memory: 512 << 20,
//!         screen: None,
//!         sandbox: sandbox::Mode::On,
//!     };
//!     let prepared = Machine::prepare(&config)?;
//!     // Disks are opened and devices made here, while the kernel is being loaded.
//!     let machine = Machine::new(prepared, Vec::new(), &[Backend::Stdio])?;
//!     machine.start().await?;
//!     while let Event::Reset | Event::TripleFault = machine.event().await {
//!         machine.reset().await?;
//!     }
//!     machine.shutdown().await;
//!     Ok(())
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! executor::Executor::new()?.block_on(run())?;
//! # Ok(())
//! # }
//! ```
//!
//! # Tests
//!
//! Beside the files (`*_tests.rs`), which need no KVM; in `tests/`, the whole machine around guests of a
//! few bytes, which run on any KVM. Real guests boot in `tests/e2e/tests/guest/`.

pub mod acpi;
pub mod boot;
mod boot_parts;
pub mod bus;
pub mod cpuid;
mod error;
mod gate;
pub mod hypervisor;
pub mod layout;
mod machine;
pub mod memory;
pub mod notice;
mod output;
pub mod ports;
pub mod screen;
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
