//! The guest's screen, keyboard and tablet, with the kernel's own drivers on the other side.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use guest_agent::pattern;
use harness::viewer::Viewer;
use harness::{Failure, STEP, check, wait_for};
use serde_json::Value;

use crate::stage::{Guest, STREAM, shared};

const KEYBOARD: &str = "Millrace Keyboard";
const TABLET: &str = "Millrace Tablet";
/// Keysyms that are not characters (X11/keysymdef.h).
const ENTER: u32 = 0xff0d;
const CAPS_LOCK: u32 = 0xffe5;
/// Linux's codes of keys, buttons and axes (linux/input-event-codes.h), and the types of their events.
const KEY_A: u16 = 30;
const KEY_B: u16 = 48;
const KEY_CAPS_LOCK: u16 = 58;
const KEY_Z: u16 = 44;
const LEFT_SHIFT: u16 = 42;
const BTN_LEFT: u16 = 0x110;
const ABS_X: u16 = 0;
const ABS_Y: u16 = 1;
const REL_WHEEL: u16 = 8;
const EV_SYN: u16 = 0;
const EV_KEY: u16 = 1;
const EV_REL: u16 = 2;
const EV_ABS: u16 = 3;
const EV_LED: u16 = 0x11;
/// Bits of the buttons in a pointer event (RFC 6143, section 7.5.5).
const LEFT: u8 = 1;
const WHEEL_UP: u8 = 8;
/// The lamp of Caps Lock in an update.
const CAPS_LAMP: u8 = 4;

fn viewer(guest: &Guest) -> Result<Viewer, Failure> {
    Viewer::unix(&guest.screen(), STEP)
}

/// Makes the guest draw a pattern, and waits until a viewer sees each pixel of it.
fn sees_pattern(guest: &mut Guest, viewer: &mut Viewer, seed: u32) -> Result<(), Failure> {
    guest.agent()?.draw(seed)?;
    sees(viewer, seed)
}

fn sees(viewer: &mut Viewer, seed: u32) -> Result<(), Failure> {
    viewer.until("the guest's pattern", STEP, |viewer| {
        let (width, _) = viewer.picture.size;
        let mut pixels = (0..).zip(&viewer.picture.pixels);
        Ok(pixels.all(|(at, pixel)| *pixel == pattern::pixel(seed, at % width, at / width)))
    })
}

fn strike(viewer: &mut Viewer, keysym: u32) -> Result<(), Failure> {
    viewer.key(keysym, true)?;
    viewer.key(keysym, false)
}

/// Waits until these events have come, and no others but for lamps.
fn arrives(guest: &mut Guest, expected: &[(u16, u16, i32)]) -> Result<(), Failure> {
    let mut events = Vec::new();
    let came = wait_for("the events", STEP, || {
        // The kernel reports a lamp with whatever comes next.
        events.extend(guest.agent()?.input()?.into_iter().filter(|(kind, ..)| *kind != EV_LED));
        Ok(events.len() >= expected.len())
    });
    check(came.is_ok() && events == expected, format!("{expected:?} arrive, not {events:?}"))
}

/// Types a line at the guest's console.
fn types(viewer: &mut Viewer, line: &str) -> Result<(), Failure> {
    line.chars().try_for_each(|character| strike(viewer, character.into()))?;
    strike(viewer, ENTER)
}

/// Every pixel that the guest draws is on the screen; keys and pointer arrive there, and its Caps Lock is the
/// viewer's; and somebody who logs in on the screen has a shell.
pub fn draws_and_types() -> Result<(), Failure> {
    shared(|guest| {
        let mut viewer = viewer(guest)?;
        for seed in [1, 2] {
            sees_pattern(guest, &mut viewer, seed)?;
        }
        check(guest.agent()?.draw(3)? == viewer.picture.size, "guest and viewer know one size")?;

        // The login on the console, which is behind the pattern, reads these keys too.
        guest.agent()?.watch_input(KEYBOARD)?;
        strike(&mut viewer, 'a'.into())?;
        strike(&mut viewer, 'B'.into())?;
        let key = |code, down: bool| (EV_KEY, code, i32::from(down));
        let struck = |code| [key(code, true), key(code, false)];
        let shifted = [key(LEFT_SHIFT, true), key(KEY_B, true), key(LEFT_SHIFT, false), key(KEY_B, false)];
        arrives(guest, &[&struck(KEY_A)[..], &shifted].concat())?;

        // The guest lights the lamp. From then on it is the small letters that need Shift.
        strike(&mut viewer, CAPS_LOCK)?;
        viewer.until("the lamp of Caps Lock", STEP, |viewer| Ok(viewer.leds == Some(CAPS_LAMP)))?;
        arrives(guest, &struck(KEY_CAPS_LOCK))?;
        strike(&mut viewer, 'A'.into())?;
        strike(&mut viewer, 'b'.into())?;
        arrives(guest, &[&struck(KEY_A)[..], &shifted].concat())?;
        let mut late = self::viewer(guest)?;
        late.until("the lamp that was lit before", STEP, |viewer| Ok(viewer.leds == Some(CAPS_LAMP)))?;

        points(guest, &mut viewer)?;
        // Its name is the letters from before. What is typed has the same letters while Caps Lock is on.
        types(&mut viewer, "")?;
        types(&mut viewer, "echo Typed-$((6*7)) >/dev/ttyS0; exit")?;
        viewer.until("another login", STEP, |viewer| {
            // It has cleared the screen: a line about the guest, an empty one, and `login:`.
            let rows = viewer.picture.text();
            Ok(rows.len() == 3 && rows[1].is_empty() && rows[2].starts_with("xxxxxx"))
        })?;
        wait_for("what was typed at the shell", STEP, || Ok(guest.vm.console().contains("Typed-42")))?;

        strike(&mut viewer, CAPS_LOCK)?;
        for viewer in [&mut viewer, &mut late] {
            viewer.until("the lamp of Caps Lock go out", STEP, |viewer| Ok(viewer.leds == Some(0)))?;
        }
        Ok(())
    })
}

/// The pointer's place arrives as a tablet's, whose axes end at 32,767, with its buttons and wheels.
fn points(guest: &mut Guest, viewer: &mut Viewer) -> Result<(), Failure> {
    guest.agent()?.watch_input(TABLET)?;
    let (width, height) = viewer.picture.size;
    let (right, bottom) = (width as u16 - 1, height as u16 - 1);
    viewer.point(right, bottom, LEFT)?;
    viewer.point(right / 3, bottom, 0)?;
    // Beyond the edges is at the edge.
    viewer.point(0, u16::MAX, WHEEL_UP)?;
    let at = |axis, value| (EV_ABS, axis, value);
    let third = f64::from(right / 3) * 32767.0 / f64::from(right);
    let events = [
        at(ABS_X, 0x7fff),
        at(ABS_Y, 0x7fff),
        (EV_KEY, BTN_LEFT, 1),
        at(ABS_X, third.round() as i32),
        (EV_KEY, BTN_LEFT, 0),
        at(ABS_X, 0),
        (EV_REL, REL_WHEEL, 1),
    ];
    arrives(guest, &events)
}

/// A viewer is connected, and another one is that does not read, while the machine is stopped and continued,
/// its disk is copied live under load, and it is reset.
pub fn stays() -> Result<(), Failure> {
    shared(|guest| {
        let mut viewer = viewer(guest)?;
        let mut stalled = stalls(guest)?;
        sees_pattern(guest, &mut viewer, 10)?;
        guest.vm.qmp.execute_json("stop", Value::Null)?;
        let mut late = self::viewer(guest)?;
        sees(&mut late, 10)?;
        guest.vm.qmp.execute_json("cont", Value::Null)?;
        sees_pattern(guest, &mut viewer, 11)?;

        let job = guest.load()?;
        let old = guest.switch(0)?;
        sees_pattern(guest, &mut viewer, 12)?;
        guest.stream(0)?;
        sees_pattern(guest, &mut viewer, 13)?;
        guest.vm.stream_completed(STREAM)?;
        std::fs::remove_file(old)?;
        guest.goes_on(job)?;
        sees_pattern(guest, &mut viewer, 14)?;
        guest.agent()?.stop(job)?;

        let before = viewer.updates;
        guest.vm.qmp.execute_json("system_reset", Value::Null)?;
        viewer.until("the old content go", STEP, |viewer| {
            Ok(viewer.picture.pixels[0] != pattern::pixel(14, 0, 0))
        })?;
        guest.agent()?.wait_reboot(2 * STEP)?;
        check(viewer.updates > before, "updates come after a reset")?;
        for viewer in [&mut viewer, &mut late] {
            sees_pattern(guest, viewer, 15)?;
        }
        // Nobody waited for this one. It gets what it asked for when it reads again.
        stalled.read_exact(&mut [0; 1 << 16])?;
        guest.has_all_since(1)?;
        let clients = guest.vm.qmp.execute_json("query-vnc", Value::Null)?;
        check(clients["clients"].as_array().is_some_and(|clients| clients.len() == 3), &clients)
    })
}

/// A client that logs in, asks for everything many times, and reads nothing of it.
fn stalls(guest: &Guest) -> Result<UnixStream, Failure> {
    let mut stream = UnixStream::connect(guest.screen())?;
    stream.set_read_timeout(Some(STEP))?;
    stream.read_exact(&mut [0; 12])?;
    stream.write_all(b"RFB 003.008\n")?;
    stream.read_exact(&mut [0; 2])?;
    stream.write_all(&[1])?;
    stream.read_exact(&mut [0; 4])?;
    stream.write_all(&[1])?;
    let mut init = [0; 24];
    stream.read_exact(&mut init)?;
    let name = u32::from_be_bytes([init[20], init[21], init[22], init[23]]);
    std::io::copy(&mut (&mut stream).take(name.into()), &mut std::io::sink())?;
    for _ in 0..100 {
        stream.write_all(&[3, 0, 0, 0, 0, 0, init[0], init[1], init[2], init[3]])?;
    }
    Ok(stream)
}

/// Keys that a stopped guest does not read are refused beyond a bound, and none of them stays down.
pub fn flood() -> Result<(), Failure> {
    shared(|guest| {
        let mut viewer = viewer(guest)?;
        guest.agent()?.watch_input(KEYBOARD)?;
        guest.vm.qmp.execute_json("stop", Value::Null)?;
        for at in 0..20_000 {
            strike(&mut viewer, u32::from(b'a') + at % 26)?;
        }
        viewer.key('a'.into(), true)?;
        // Its keys come up when it goes. The next one comes after it.
        drop(viewer);
        wait_for("the client go", STEP, || {
            let info = guest.vm.qmp.execute_json("query-vnc", Value::Null)?;
            Ok(info["clients"].as_array().is_some_and(Vec::is_empty))
        })?;
        guest.vm.qmp.execute_json("cont", Value::Null)?;
        let (mut events, mut again) = (Vec::new(), self::viewer(guest)?);
        // The kernel's own queue for a reader is short; it says so when it drops something.
        let is_last = |event: &(u16, u16, i32)| *event == (EV_KEY, KEY_Z, 0);
        wait_for("a key behind the flood", STEP, || {
            strike(&mut again, 'z'.into())?;
            events.extend(guest.agent()?.input()?);
            Ok(events.iter().rev().take(2).any(is_last) && events.len() > 2)
        })?;
        check(events.len() < 2500, format!("{} events of 40,000 reach the guest", events.len()))?;
        let lost = events.iter().any(|(kind, code, _)| (*kind, *code) == (EV_SYN, 3));
        let mut down = std::collections::BTreeSet::new();
        for (_, code, value) in events.iter().filter(|(kind, ..)| *kind == EV_KEY) {
            _ = if *value == 0 { down.remove(code) } else { down.insert(*code) };
        }
        check(lost || down.is_empty(), format!("no key stays down: {down:?}"))
    })
}
