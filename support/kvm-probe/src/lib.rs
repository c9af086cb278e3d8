//! Finds out whether this host's KVM can run a stock kernel.
//!
//! A CPU flag is only a hint: some KVMs open, create VMs and vCPUs, and then run guest kernel code with
//! an emulator that lacks instructions which every stock kernel executes. So a throw-away vCPU runs
//! exactly these: `cmpxchg16b`, `int3` with a handler, and `xsave`/`xrstor`, in long mode at ring 0.
//!
//! # Modules
//!
//! - `machine`: the throw-away vCPU and its code
//!
//! # Example
//!
//! ```
//! use kvm_probe::{Kvm, kvm};
//!
//! let found = kvm();
//! match found {
//!     Kvm::Usable => println!("guests run here"),
//!     Kvm::Absent | Kvm::NoPermission => println!("no guests: {found}"),
//!     Kvm::CannotRunStockCode(happened) => println!("only small guests: {happened}"),
//!     Kvm::Broken(operation) => println!("the host is broken: {operation}"),
//! }
//! // Later calls return the first result.
//! assert!(std::ptr::eq(found, kvm()));
//! ```
//!
//! # Tests
//!
//! `src/tests.rs`: the result is stable and one line. The result itself depends on the host.

mod machine;

use std::fmt;
use std::io;
use std::sync::OnceLock;

/// The state of /dev/kvm on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kvm {
    /// It runs a stock kernel.
    Usable,
    /// There is no /dev/kvm.
    Absent,
    /// It exists, but this user may not open it.
    NoPermission,
    /// It opens, but does not execute what a stock kernel executes. Carries a description of what
    /// happened instead.
    CannotRunStockCode(String),
    /// It opens, but no VM can be made. Carries the operation that failed.
    Broken(String),
}

impl Kvm {
    /// Returns true if a VMM can boot a stock kernel on this host.
    pub fn is_usable(&self) -> bool {
        *self == Kvm::Usable
    }
}

impl fmt::Display for Kvm {
    /// One line that describes the state.
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

/// Probes /dev/kvm once per process; later calls return the first call's result.
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
