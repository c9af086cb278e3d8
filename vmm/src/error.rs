//! The errors of making, starting and resetting a machine.

use std::io;
use std::path::PathBuf;

/// An error of making, starting or resetting a machine. Each text is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no usable `/dev/kvm`.
    #[error("/dev/kvm: {0}")]
    NoKvm(String),
    /// The host's KVM lacks a capability that every machine needs.
    #[error("/dev/kvm lacks {0}: use a newer host kernel")]
    KvmLacks(&'static str),
    /// A KVM call failed.
    #[error("KVM: {what}: {source}")]
    Kvm {
        /// The operation that failed.
        what: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// Guest memory of this size cannot be mapped.
    #[error("guest memory of {mib} MiB: {reason}")]
    Memory {
        /// The requested size, in MiB.
        mib: u64,
        /// The reason, and what would work.
        reason: String,
    },
    /// The number of vCPUs is out of range.
    #[error("{0} CPUs: a machine has 1 to {max}", max = crate::layout::MAX_CPUS)]
    Cpus(u32),
    /// There are more virtio devices than interrupt lines.
    #[error("{0} virtio devices: a machine has at most {max}", max = crate::layout::MAX_DEVICES)]
    Devices(usize),
    /// A device has queues or features that no driver could use.
    #[error("virtio device {index}: {reason}")]
    Device {
        /// Index in the list of devices.
        index: usize,
        /// The reason.
        reason: String,
    },
    /// The kernel, the initrd or the command line cannot be used.
    #[error("{path}: {reason}")]
    Boot {
        /// The file concerned.
        path: PathBuf,
        /// The reason, and what to do.
        reason: String,
    },
    /// A screen of this size cannot be made.
    #[error("a screen of {width}x{height}: give 640x480 to 2560x1600")]
    Screen {
        /// Pixels of a line.
        width: u32,
        /// Number of lines.
        height: u32,
    },
    /// A serial back end cannot be opened.
    #[error("serial port {port}: {reason}")]
    Serial {
        /// Number of the port: 0 is ttyS0.
        port: usize,
        /// The reason, with the file concerned.
        reason: String,
    },
    /// The machine's state does not allow the operation; for example, it has ended or has not started.
    #[error("the machine {0}")]
    State(&'static str),
    /// The process lacks a resource (descriptors, threads).
    #[error("{what}: {source}")]
    System {
        /// The operation that failed.
        what: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
}

impl Error {
    /// Returns a function for `map_err` on KVM calls. `what` is the operation.
    pub(crate) fn kvm(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
        move |e| Error::Kvm { what, source: io::Error::from_raw_os_error(e.errno()) }
    }

    /// Returns a function for `map_err` on system calls. `what` is the operation.
    pub(crate) fn system(what: &'static str) -> impl Fn(io::Error) -> Error {
        move |source| Error::System { what, source }
    }
}
