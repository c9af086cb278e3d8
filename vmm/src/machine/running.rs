//! The parts of a machine that live from one start to the next reset, and the guest's clock.

use std::cell::Cell;
use std::sync::Arc;

use kvm_bindings::kvm_clock_data;
use kvm_ioctls::VmFd;

use crate::vcpu::Vcpus;

/// The parts that live from one start to the next reset.
pub(super) struct Running {
    pub vcpus: Vcpus,
    /// The guest's clock at the time of the stop, while the guest is stopped.
    pub clock: Cell<Option<kvm_clock_data>>,
    /// Keeps irqfds and ioeventfds connected; dropped after the vCPUs.
    pub vm: Arc<VmFd>,
}

impl Running {
    /// Saves the guest's clock. All vCPUs must be parked.
    pub(super) fn stop_clock(&self) {
        // If KVM cannot read the clock, the clock runs on while the guest is stopped.
        self.clock.set(self.vm.get_clock().ok());
    }

    /// Sets the guest's clock back to the saved time. Must be called before the first vCPU runs.
    pub(super) fn start_clock(&self) {
        if let Some(kvm_clock_data { clock, .. }) = self.clock.take() {
            // Only the time is set: flags would ask for adjustments, for example by the time that has
            // passed.
            let stood = kvm_clock_data { clock, ..Default::default() };
            if let Err(e) = self.vm.set_clock(&stood) {
                tracing::warn!("the guest's clock runs on while the guest is stopped: {e}");
            }
        }
    }
}
