//! The keys and buttons that one client holds down.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use crate::keys::{self, code};
use crate::screen::{Input, Pointer, Size};

/// Bits of the buttons in a pointer event (RFC 6143, section 7.5.5; the horizontal wheel is rfbproto's).
mod button {
    pub(super) const LEFT: u8 = 1;
    pub(super) const MIDDLE: u8 = 1 << 1;
    pub(super) const RIGHT: u8 = 1 << 2;
    pub(super) const WHEEL_UP: u8 = 1 << 3;
    pub(super) const WHEEL_DOWN: u8 = 1 << 4;
    pub(super) const WHEEL_LEFT: u8 = 1 << 5;
    pub(super) const WHEEL_RIGHT: u8 = 1 << 6;
    pub(super) const HELD: u8 = LEFT | MIDDLE | RIGHT;
}

/// One client's keyboard and pointer.
pub(crate) struct Keyboard {
    input: Rc<dyn Input>,
    /// Caps Lock as the presses of all clients left it, for inputs that do not know it.
    caps_lock: Rc<Cell<bool>>,
    held: BTreeSet<u16>,
    buttons: u8,
    pointer: Pointer,
}

impl Keyboard {
    pub(crate) fn new(input: Rc<dyn Input>, caps_lock: Rc<Cell<bool>>) -> Self {
        Keyboard { input, caps_lock, held: BTreeSet::new(), buttons: 0, pointer: Pointer::default() }
    }

    /// Presses or releases the key that makes a symbol. While a key goes down, Shift is what its symbol
    /// needs on a US keyboard, because the client's layout may need something else for it.
    pub(crate) fn keysym(&mut self, keysym: u32, down: bool) {
        let Some(key) = keys::from_keysym(keysym) else { return };
        let shifts: Vec<u16> = [code::LEFT_SHIFT, code::RIGHT_SHIFT]
            .into_iter()
            .filter(|code| self.held.contains(code))
            .collect();
        let lamps = self.input.lamps();
        let caps_lock = lamps.map_or(self.caps_lock.get(), |lamps| lamps.caps_lock);
        let wanted = key.shift.map(|shift| shift ^ (key.letter && caps_lock));
        match wanted {
            Some(true) if down && shifts.is_empty() => {
                self.input.key(code::LEFT_SHIFT, true);
                self.press(key.code, true);
                self.input.key(code::LEFT_SHIFT, false);
            }
            Some(false) if down && !shifts.is_empty() => {
                shifts.iter().for_each(|shift| self.input.key(*shift, false));
                self.press(key.code, true);
                shifts.iter().for_each(|shift| self.input.key(*shift, true));
            }
            _ => self.press(key.code, down),
        }
    }

    /// Presses or releases the key with a scancode, or with the symbol if there is no such key.
    pub(crate) fn scancode(&mut self, scancode: u32, keysym: u32, down: bool) {
        match keys::from_scancode(scancode) {
            Some(code) => self.press(code, down),
            None => self.keysym(keysym, down),
        }
    }

    fn press(&mut self, code: u16, down: bool) {
        let changed = if down { self.held.insert(code) } else { self.held.remove(&code) };
        if down && changed && code == code::CAPS_LOCK {
            self.caps_lock.set(!self.caps_lock.get());
        }
        // A release of a key that this client does not hold is dropped: another one may hold it.
        if down || changed {
            self.input.key(code, down);
        }
    }

    /// Moves the pointer, with the buttons of a pointer event.
    pub(crate) fn pointer(&mut self, x: u16, y: u16, buttons: u8, size: Size) {
        let pressed = buttons & !self.buttons;
        let step = |up: u8, down: u8| i8::from(pressed & up != 0) - i8::from(pressed & down != 0);
        self.buttons = buttons;
        self.pointer = Pointer {
            x: x.min(size.width.saturating_sub(1)),
            y: y.min(size.height.saturating_sub(1)),
            size,
            left: buttons & button::LEFT != 0,
            middle: buttons & button::MIDDLE != 0,
            right: buttons & button::RIGHT != 0,
            wheel: step(button::WHEEL_UP, button::WHEEL_DOWN),
            horizontal_wheel: step(button::WHEEL_RIGHT, button::WHEEL_LEFT),
        };
        self.input.pointer(self.pointer);
    }
}

impl Drop for Keyboard {
    /// Releases all that the client holds: nobody else could.
    fn drop(&mut self) {
        for code in std::mem::take(&mut self.held) {
            self.input.key(code, false);
        }
        if self.buttons & button::HELD != 0 {
            let Pointer { x, y, size, .. } = self.pointer;
            self.input.pointer(Pointer { x, y, size, ..Pointer::default() });
        }
    }
}

#[cfg(test)]
#[path = "keyboard_tests.rs"]
mod tests;
