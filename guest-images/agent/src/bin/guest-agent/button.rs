//! The power button: when it is pressed, the guest powers off, as it would with a login manager.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread;

const INPUT: &str = "/sys/class/input";
/// A `struct input_event` of 64-bit Linux (`linux/input.h`): a time of 16 bytes, type, code, value.
const EVENT: usize = 24;
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;

/// Calls `pressed` at each press of any power button, on a thread of its own.
pub fn listen(pressed: impl Fn() + Send + Clone + 'static) -> io::Result<()> {
    for device in buttons()? {
        let (mut device, pressed) = (File::open(device)?, pressed.clone());
        thread::Builder::new().spawn(move || {
            let mut event = [0; EVENT];
            while device.read_exact(&mut event).is_ok() {
                if is_press(&event) {
                    pressed();
                }
            }
        })?;
    }
    Ok(())
}

fn buttons() -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(INPUT)? {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("device/name")).unwrap_or_default();
        if entry.file_name().to_string_lossy().starts_with("event") && name.trim() == "Power Button" {
            found.push(Path::new("/dev/input").join(entry.file_name()));
        }
    }
    Ok(found)
}

fn is_press(event: &[u8; EVENT]) -> bool {
    let word = |at: usize| u16::from_le_bytes([event[at], event[at + 1]]);
    (word(16), word(18), word(20)) == (EV_KEY, KEY_POWER, 1)
}
