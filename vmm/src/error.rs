//! What can go wrong when a machine is made, started or reset.

use std::io;
use std::path::PathBuf;

/// Why a machine cannot be made, started or reset. Each text is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no usable `/dev/kvm`.
    #[error("/dev/kvm: {0}")]
    NoKvm(String),
    /// The host's KVM lacks something without which no machine of ours runs.
    #[error("/dev/kvm lacks {0}: use a newer host kernel")]
    KvmLacks(&'static str),
    /// A KVM call failed.
    #[error("KVM: {what}: {source}")]
    Kvm {
        /// What was being done.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Guest memory of this size cannot be had.
    #[error("guest memory of {mib} MiB: {reason}")]
    Memory {
        /// The size asked for, in MiB.
        mib: u64,
        /// Why not, and what would work.
        reason: String,
    },
    /// A number of vCPUs that a machine cannot have.
    #[error("{0} CPUs: a machine has 1 to {max}", max = crate::layout::MAX_CPUS)]
    Cpus(u32),
    /// More virtio devices than interrupt lines.
    #[error("{0} virtio devices: a machine has at most {max}", max = crate::layout::MAX_DEVICES)]
    Devices(usize),
    /// A device whose queues or features no driver could use.
    #[error("virtio device {index}: {reason}")]
    Device {
        /// Its place in the list given.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A kernel, an initrd or a command line that cannot be booted.
    #[error("{path}: {reason}")]
    Boot {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A serial back end that cannot be opened.
    #[error("serial port {port}: {reason}")]
    Serial {
        /// The port: 0 for ttyS0.
        port: usize,
        /// What is wrong, and with which file.
        reason: String,
    },
    /// The machine is in no state for this: it has ended, or has not started.
    #[error("the machine {0}")]
    State(&'static str),
    /// The process lacks a resource (descriptors, threads).
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err` on KVM calls.
    pub(crate) fn kvm(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
        move |e| Error::Kvm { what, source: io::Error::from_raw_os_error(e.errno()) }
    }

    /// For `map_err` on system calls.
    pub(crate) fn system(what: &'static str) -> impl Fn(io::Error) -> Error {
        move |source| Error::System { what, source }
    }
}
