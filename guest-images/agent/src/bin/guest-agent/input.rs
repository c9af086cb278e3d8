//! The guest's keyboard and tablet: what comes from them, as any program sees it (`/dev/input`).

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::jobs::lock;

const CLASS: &str = "/sys/class/input";
/// A `struct input_event` of 64-bit Linux (`linux/input.h`): a time of 16 bytes, type, code, value.
const EVENT: usize = 24;
/// The end of what happens at once, of type and code 0, which says nothing by itself.
const SYN_REPORT: (u16, u16) = (0, 0);
/// The number of events that are kept. The oldest ones go.
const MOST: usize = 4096;

/// The events of all watched devices that nobody has taken yet.
pub type Events = Arc<Mutex<VecDeque<String>>>;

/// The files of the devices of this name.
pub fn named(name: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(CLASS)? {
        let entry = entry?;
        let text = fs::read_to_string(entry.path().join("device/name")).unwrap_or_default();
        if entry.file_name().to_string_lossy().starts_with("event") && text.trim() == name {
            found.push(Path::new("/dev/input").join(entry.file_name()));
        }
    }
    Ok(found)
}

/// Collects the events of the devices of this name from now on, as `TYPE CODE VALUE`.
pub fn watch(name: &str, events: &Events) -> Result<(), String> {
    let devices = named(name).map_err(|error| format!("{CLASS}: {error}"))?;
    if devices.is_empty() {
        return Err(format!("no input device is named {name}"));
    }
    for path in devices {
        let failed = |error| format!("{}: {error}", path.display());
        let mut device = File::open(&path).map_err(failed)?;
        let events = Arc::clone(events);
        let collect = move || {
            let mut event = [0; EVENT];
            while device.read_exact(&mut event).is_ok() {
                let (kind, code, value) = parse(&event);
                if (kind, code) == SYN_REPORT {
                    continue;
                }
                let mut events = lock(&events);
                if events.len() == MOST {
                    events.pop_front();
                }
                events.push_back(format!("{kind} {code} {value}"));
            }
        };
        thread::Builder::new().spawn(collect).map_err(|error| format!("no thread: {error}"))?;
    }
    Ok(())
}

/// The type, code and value of an event.
pub fn parse(event: &[u8; EVENT]) -> (u16, u16, i32) {
    let [.., a, b, c, d, e, f, g, h] = *event;
    (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]), i32::from_le_bytes([e, f, g, h]))
}
