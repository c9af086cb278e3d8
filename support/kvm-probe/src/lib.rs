//! Whether this host's KVM can run a stock kernel.
//!
//! A CPU flag is a hint, not proof: there are KVMs that open, make machines and vCPUs, and then emulate guest
//! kernel code with an emulator that lacks what every stock kernel executes. So a throw-away vCPU runs just
//! that: `cmpxchg16b`, `int3` with a handler, and `xsave`/`xrstor`, in long mode at ring 0.

mod machine;

use std::fmt;
use std::io;
use std::sync::OnceLock;

/// What /dev/kvm on this host is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kvm {
    /// It runs a stock kernel.
    Usable,
    /// There is no /dev/kvm.
    Absent,
    /// There is one, but this user may not open it.
    NoPermission,
    /// It opens, but does not execute what a stock kernel executes; with what happened instead.
    CannotRunStockCode(String),
    /// It opens, but a machine cannot be made; with the failed operation.
    Broken(String),
}

impl Kvm {
    /// Whether a VMM can boot a stock kernel on this host.
    pub fn is_usable(&self) -> bool {
        *self == Kvm::Usable
    }
}

impl fmt::Display for Kvm {
    /// One line: what there is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kvm::Usable => f.write_str("KVM runs stock kernels"),
            Kvm::Absent => f.write_str("there is no /dev/kvm"),
            Kvm::NoPermission => {
                f.write_str("/dev/kvm may not be opened by this user (join the group kvm to use it)")
            }
            Kvm::CannotRunStockCode(what) => {
                write!(f, "/dev/kvm opens but cannot run a stock kernel ({what})")
            }
            Kvm::Broken(what) => write!(f, "/dev/kvm is broken ({what})"),
        }
    }
}

/// Probes /dev/kvm, once per process: later calls get the first call's answer.
pub fn kvm() -> &'static Kvm {
    static ANSWER: OnceLock<Kvm> = OnceLock::new();
    ANSWER.get_or_init(|| match std::fs::File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => machine::try_stock_code(),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Kvm::NoPermission,
        Err(_) => Kvm::Absent,
    })
}

#[cfg(test)]
mod tests;
