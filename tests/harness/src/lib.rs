//! The code that tests, benchmarks and the demo share.
//!
//! # Modules, in reading order
//!
//! - [`vm`]: [`Vm`], one `millrace` process with its guest, its monitor and its output
//! - [`programs`]: finds or builds the programs of a run, and the kernel and initramfs of a guest
//! - [`images`], [`iso`]: disks and media with known content
//! - [`session`]: a record of every message of a monitor, millrace's or QEMU's
//! - [`terminal`]: shows what a program draws on a terminal
//! - [`browser`]: a real browser
//! - [`nbd`]: a small NBD client for workloads and models; [`servers`]: other people's servers
//! - [`screen`]: a screen without a guest, and a VNC server that shows it; [`viewer`]: a small client;
//!   [`vncdo`]: one by other people; [`picture`]: what clients saw
//! - [`qemu_img`]: checks an image with QEMU's tools
//!
//! # Tests
//!
//! `iso_tests.rs`. The rest is tested by its users: `tests/e2e`, `tests/bench`, `tests/demo`.

pub mod browser;
pub mod images;
pub mod iso;
pub mod nbd;
pub mod picture;
pub mod programs;
pub mod qemu_img;
pub mod screen;
pub mod servers;
pub mod session;
pub mod terminal;
pub mod viewer;
pub mod vm;
pub mod vncdo;

pub use vm::{BOOT, CMDLINE, Options, STEP, Vm};

/// An error of the harness: one line that says what went wrong.
pub type Failure = Box<dyn std::error::Error>;

/// Fails if `holds` is false; the error quotes `what`.
pub fn check(holds: bool, what: impl std::fmt::Display) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(format!("does not hold: {what}").into()) }
}

/// Waits until `condition` returns true. For conditions without a notification: evaluates it again and
/// again.
///
/// # Errors
/// An error of `condition`, and the time-out.
pub fn wait_for(
    what: &str,
    time: std::time::Duration,
    mut condition: impl FnMut() -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let deadline = std::time::Instant::now() + time;
    while !condition()? {
        if std::time::Instant::now() > deadline {
            return Err(format!("{what}: not within {time:?}").into());
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Ok(())
}
