//! Devices that are no disks, as a guest uses them.

use tests::{Failure, check};

use crate::stage::shared;

/// The guest's kernel has its random numbers from the host, and others each time.
pub fn random_numbers() -> Result<(), Failure> {
    shared(|guest| {
        let (first, source) = guest.agent()?.random(64)?;
        check(source.starts_with("virtio_rng"), format!("the generator is {source}"))?;
        let (second, _) = guest.agent()?.random(64)?;
        check(first != second, format!("the same 64 bytes twice: {first}"))?;
        for bytes in [&first, &second] {
            let zeros = bytes.as_bytes().chunks(2).filter(|byte| *byte == b"00").count();
            // By chance once in 10^23 runs.
            check(zeros < 16, format!("64 random bytes with {zeros} zeros: {bytes}"))?;
        }
        Ok(())
    })
}
