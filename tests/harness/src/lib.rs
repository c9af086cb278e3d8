//! What trials, benchmarks and the demo share.
//!
//! [`programs`] finds or builds what a run needs, [`images`] and [`iso`] make disks, [`Vm`] is one `millrace`
//! process with its guest and its monitor, [`session`] a monitor's every word, [`terminal`] is what a person
//! sees of a program, [`qemu_img`] asks QEMU's opinion of an image.

pub mod images;
pub mod iso;
pub mod nbd;
pub mod programs;
pub mod qemu_img;
pub mod servers;
pub mod session;
pub mod terminal;
pub mod vm;

pub use vm::{BOOT, CMDLINE, Options, STEP, Vm};

/// An error of the harness: one line that says what went wrong.
pub type Failure = Box<dyn std::error::Error>;

/// Says that something does not hold.
pub fn check(holds: bool, what: impl std::fmt::Display) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(format!("does not hold: {what}").into()) }
}

/// Awaits a condition that nothing announces, by asking again.
///
/// # Errors
/// What `condition` says, and the time-out.
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
