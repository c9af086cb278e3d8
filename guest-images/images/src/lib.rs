//! Makes what a guest boots: kernels, initramfs and disks with Debian systems, from Debian's packages.
//!
//! [`kernel::find`] and [`initramfs::guest`] return what a VMM boots, [`debian::Debian`] makes a disk
//! with a whole system, and [`micro`] contains guests of a few bytes. Everything is made once and kept
//! in a cache ([`cache`]).
//!
//! # Modules, in reading order
//!
//! - [`kernel`]: a stock kernel, unpacked from Debian's package; [`vmlinux`]: the ELF file inside it
//! - [`initramfs`]: the initramfs of guests and of the emulated host
//! - [`modules`]: kernel modules in the order in which they are inserted
//! - [`agent_binary`]: the static binary that is `/init`
//! - [`libraries`]: the shared libraries that a program needs
//! - [`cpio`], [`compression`]: the formats of archives, kernels and modules
//! - [`debian`]: a disk with a Debian system
//! - [`boot`]: the kernel and initramfs that `millrace run` boots by default
//! - [`packages`]: Debian packages, downloaded and unpacked
//! - [`cache`]: the folder that keeps everything that was made or downloaded
//! - [`micro`]: guests of a few bytes
//! - `error`: one line that says what failed and what to do
//!
//! # Example
//!
//! It downloads packages when it first runs.
//!
//! ```no_run
//! use guest_images::{debian::Debian, initramfs, kernel, vmlinux};
//!
//! fn main() -> guest_images::Result<()> {
//!     let kernel = kernel::find()?;
//!     println!("Linux {}: {}", kernel.version, kernel.vmlinuz.display());
//!     println!("the ELF file in it: {}", vmlinux::find(&kernel)?.display());
//!     println!("an initramfs with the test agent: {}", initramfs::guest(&kernel)?.display());
//!     let system = Debian { suite: "trixie".into(), size: 2 << 30 };
//!     println!("a disk with Debian: {}", system.cached(&kernel)?.display());
//!     Ok(())
//! }
//! ```
//!
//! # Tests
//!
//! Beside the files (`*_tests.rs`), on made-up kernels and modules. Made images are tested by those who
//! boot them: `guest-images/emulated-host/tests/` and `tests/e2e/tests/guest/`.

pub mod agent_binary;
pub mod boot;
pub mod cache;
pub mod compression;
pub mod cpio;
pub mod debian;
mod error;
pub mod initramfs;
pub mod kernel;
pub mod libraries;
pub mod micro;
pub mod modules;
pub mod packages;
pub mod vmlinux;

pub use error::{Error, Result, output, program_name};
