use std::cell::RefCell;

use super::*;
use crate::screen::Lamps;

const SIZE: Size = Size { width: 640, height: 480 };
const SHIFT: u32 = 0xffe1;
const CAPS_LOCK: u32 = 0xffe5;

#[derive(Default)]
struct Recorder {
    keys: RefCell<Vec<(u16, bool)>>,
    pointers: RefCell<Vec<Pointer>>,
    caps_lock: Cell<Option<bool>>,
}

impl Input for Recorder {
    fn key(&self, code: u16, down: bool) {
        self.keys.borrow_mut().push((code, down));
    }

    fn pointer(&self, pointer: Pointer) {
        self.pointers.borrow_mut().push(pointer);
    }

    fn lamps(&self) -> Option<Lamps> {
        self.caps_lock.get().map(|caps_lock| Lamps { caps_lock, ..Lamps::default() })
    }
}

impl Recorder {
    fn client(self: &Rc<Self>, caps_lock: &Rc<Cell<bool>>) -> Keyboard {
        Keyboard::new(self.clone(), caps_lock.clone())
    }

    /// What a US keyboard's reader makes of the keys pressed so far: letters and digits only.
    fn typed(&self) -> String {
        let (mut shift, mut caps, mut text) = (false, self.caps_lock.get().unwrap_or(false), String::new());
        for (code, down) in self.keys.take() {
            match code {
                code::LEFT_SHIFT | code::RIGHT_SHIFT => shift = down,
                code::CAPS_LOCK if down && self.caps_lock.get().is_none() => caps = !caps,
                code::CAPS_LOCK => {}
                code if down => text.extend((0x20..0x7f).find_map(|keysym| {
                    let key = keys::from_keysym(keysym)?;
                    let shifted = shift ^ (key.letter && caps);
                    (key.code == code && key.shift.is_none_or(|needed| needed == shifted))
                        .then_some(keysym as u8 as char)
                })),
                _ => {}
            }
        }
        text
    }
}

fn stroke(client: &mut Keyboard, keysym: u32) {
    client.keysym(keysym, true);
    client.keysym(keysym, false);
}

#[test]
fn symbols_arrive_whatever_shift_the_client_sends() {
    let (recorder, caps) = (Rc::new(Recorder::default()), Rc::default());
    let mut client = recorder.client(&caps);
    // No Shift at all, as vncdotool types.
    "aA1!z: Z".bytes().for_each(|symbol| stroke(&mut client, symbol.into()));
    assert_eq!(recorder.typed(), "aA1!z: Z");
    // Shift as on a German keyboard, whose slash is Shift and 7.
    client.keysym(SHIFT, true);
    "A/B".bytes().for_each(|symbol| stroke(&mut client, symbol.into()));
    client.keysym(SHIFT, false);
    stroke(&mut client, 'c'.into());
    assert_eq!(recorder.typed(), "A/Bc");
}

#[test]
fn letters_arrive_as_they_are_whatever_caps_lock_says() {
    for known in [false, true] {
        let (recorder, caps) = (Rc::new(Recorder::default()), Rc::default());
        let mut client = recorder.client(&caps);
        stroke(&mut client, CAPS_LOCK);
        recorder.caps_lock.set(known.then_some(true));
        "ABab1!".bytes().for_each(|symbol| stroke(&mut client, symbol.into()));
        assert_eq!(recorder.typed(), "ABab1!", "{known}");
    }
}

#[test]
fn a_scancode_is_the_key_itself() {
    let (recorder, caps) = (Rc::new(Recorder::default()), Rc::default());
    let mut client = recorder.client(&caps);
    client.scancode(0x1e, 'A'.into(), true);
    client.scancode(0x1e, 'A'.into(), false);
    assert_eq!(recorder.keys.take(), [(30, true), (30, false)]);
    // Unknown as a scancode, so the symbol counts.
    client.scancode(0, 'b'.into(), true);
    assert_eq!(recorder.keys.take(), [(48, true)]);
    client.scancode(0, 0, true);
    assert_eq!(recorder.keys.take(), []);
}

#[test]
fn a_client_that_goes_releases_what_it_holds_and_nothing_else() {
    let (recorder, caps) = (Rc::new(Recorder::default()), Rc::default());
    let (mut one, mut two) = (recorder.client(&caps), recorder.client(&caps));
    one.keysym('a'.into(), true);
    one.keysym('a'.into(), true);
    two.keysym('b'.into(), true);
    two.keysym('a'.into(), false);
    one.pointer(700, 5, button::LEFT, SIZE);
    assert_eq!(recorder.keys.take(), [(30, true), (30, true), (48, true)]);
    let held = Pointer { x: 639, y: 5, size: SIZE, left: true, ..Pointer::default() };
    assert_eq!(recorder.pointers.take(), [held]);
    drop(one);
    assert_eq!(recorder.keys.take(), [(30, false)]);
    assert_eq!(recorder.pointers.take(), [Pointer { left: false, ..held }]);
    two.pointer(0, 0, 0, SIZE);
    recorder.pointers.take();
    drop(two);
    assert_eq!(recorder.keys.take(), [(48, false)]);
    assert_eq!(recorder.pointers.take(), []);
}

#[test]
fn a_wheel_steps_once_for_each_press() {
    let (recorder, caps) = (Rc::new(Recorder::default()), Rc::default());
    let mut client = recorder.client(&caps);
    for buttons in
        [button::WHEEL_UP, button::WHEEL_UP | button::LEFT, 0, button::WHEEL_DOWN, button::WHEEL_LEFT]
    {
        client.pointer(1, 1, buttons, SIZE);
    }
    let steps: Vec<_> =
        recorder.pointers.take().iter().map(|event| (event.wheel, event.horizontal_wheel)).collect();
    assert_eq!(steps, [(1, 0), (0, 0), (0, 0), (-1, 0), (0, -1)]);
}
