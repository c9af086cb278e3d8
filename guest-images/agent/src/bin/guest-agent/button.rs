//! The power button: when it is pressed, the guest powers off, as it would with a login manager.

use std::fs::File;
use std::io::{self, Read};
use std::thread;

use crate::input;

const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;

/// Calls `pressed` at each press of any power button, on a thread of its own.
pub fn listen(pressed: impl Fn() + Send + Clone + 'static) -> io::Result<()> {
    for device in input::named("Power Button")? {
        let (mut device, pressed) = (File::open(device)?, pressed.clone());
        thread::Builder::new().spawn(move || {
            let mut event = [0; 24];
            while device.read_exact(&mut event).is_ok() {
                if input::parse(&event) == (EV_KEY, KEY_POWER, 1) {
                    pressed();
                }
            }
        })?;
    }
    Ok(())
}
