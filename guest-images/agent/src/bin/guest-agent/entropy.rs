//! The host's random numbers, read through the kernel's hardware random number generator.

use std::fs::{self, File};
use std::io::Read;

/// The device and the name of its current source (`Documentation/admin-guide/hw_random.rst`).
const DEVICE: &str = "/dev/hwrng";
const CURRENT: &str = "/sys/class/misc/hw_random/rng_current";
/// The largest number of bytes in one request.
const MOST: usize = 1024;

/// Reads `length` bytes. Returns them as hexadecimal digits, and the name of the generator that they
/// came from.
pub fn read(length: usize) -> Result<(String, String), String> {
    if length > MOST {
        return Err(format!("at most {MOST} bytes at once"));
    }
    let mut bytes = vec![0; length];
    let read = File::open(DEVICE).and_then(|mut device| device.read_exact(&mut bytes));
    read.map_err(|error| format!("{DEVICE}: {error}"))?;
    let source = fs::read_to_string(CURRENT).map_err(|error| format!("{CURRENT}: {error}"))?;
    Ok((bytes.iter().map(|byte| format!("{byte:02x}")).collect(), source.trim().to_owned()))
}
