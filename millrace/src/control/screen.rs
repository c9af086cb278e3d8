//! The screen: VNC's password and clients, pictures, and input.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use qmp::command::*;
use qmp::types::*;
use qmp::{Error, Result};
use rfb::{ClientInfo, Password, picture};
use virtio_input::codes::{ABS_MAX, BTN_EXTRA, BTN_LEFT, BTN_MIDDLE, BTN_RIGHT, BTN_SIDE};
use virtio_input::{Axis, Feed};

use super::Control;
use crate::screen::{Hands, Screen, described};

/// The time between presses and releases of `send-key`, unless it is given.
const HOLD: Duration = Duration::from_millis(100);
/// The longest time between them, in milliseconds.
const HOLD_MAX: i64 = 60_000;

/// Returns a client as `query-vnc` and events describe it.
pub(crate) fn client(info: &ClientInfo) -> VncClientInfo {
    let (host, service, family) = described(&info.peer);
    VncClientInfo { host, service, family, websocket: false }
}

/// Returns the server's end of a client's connection as events describe it.
pub(crate) fn server(info: &ClientInfo) -> VncServerInfo {
    let (host, service, family) = described(&info.server);
    VncServerInfo { host, service, family, websocket: false, auth: Some(info.security.name().to_owned()) }
}

fn check_protocol(protocol: DisplayProtocol) -> Result<()> {
    match protocol {
        DisplayProtocol::Vnc => Ok(()),
        DisplayProtocol::Spice => Err(Error::generic("there is no Spice server")),
    }
}

/// Reads the time of `expire_password`, in QEMU's forms. `None` means never.
fn time(text: &str) -> Result<Option<SystemTime>> {
    let wrong = || Error::generic(format!("time '{text}': give now, never, +SECONDS or SECONDS since 1970"));
    let (start, seconds) = match text {
        "now" => (SystemTime::now(), "0"),
        "never" => return Ok(None),
        _ => match text.strip_prefix('+') {
            Some(seconds) => (SystemTime::now(), seconds),
            None => (SystemTime::UNIX_EPOCH, text),
        },
    };
    if !seconds.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let seconds = seconds.parse().map_err(|_| wrong())?;
    start.checked_add(Duration::from_secs(seconds)).map(Some).ok_or_else(wrong)
}

/// Returns Linux's code of a key.
fn code(key: &KeyValue) -> Result<u16> {
    match key {
        KeyValue::Qcode(key) => {
            key.linux().ok_or_else(|| Error::generic(format!("key '{key}' is not on the keyboard")))
        }
        KeyValue::Number(number) => {
            let code = u32::try_from(*number).ok().and_then(rfb::keys::from_scancode);
            code.ok_or_else(|| Error::generic(format!("no key has the scancode {number}")))
        }
    }
}

/// A step of `input-send-event`, checked.
enum Step {
    Key(u16, bool),
    Button(u16, bool),
    Wheel(Axis, i32),
    /// Half a turn of a wheel: its button goes up.
    Nothing,
    Position(InputAxis, u32),
}

fn step(event: &InputEvent) -> Result<Step> {
    let no_device = |kind| Error::generic(format!("Input handler not found for event type {kind}"));
    Ok(match event {
        InputEvent::Key(key) => Step::Key(code(&key.key)?, key.down),
        InputEvent::Rel(_) => return Err(no_device("rel")),
        InputEvent::Abs(InputMoveEvent { axis, value }) => {
            let position = u32::try_from(*value).ok().filter(|position| *position <= ABS_MAX);
            let position =
                position.ok_or_else(|| Error::generic(format!("position {value}: give 0 to {ABS_MAX}")))?;
            Step::Position(*axis, position)
        }
        InputEvent::Btn(InputBtnEvent { button, down }) => match (button, down) {
            (InputButton::Left, _) => Step::Button(BTN_LEFT, *down),
            (InputButton::Middle, _) => Step::Button(BTN_MIDDLE, *down),
            (InputButton::Right, _) => Step::Button(BTN_RIGHT, *down),
            (InputButton::Side, _) => Step::Button(BTN_SIDE, *down),
            (InputButton::Extra, _) => Step::Button(BTN_EXTRA, *down),
            (InputButton::Touch, _) => return Err(no_device("touch")),
            (_, false) => Step::Nothing,
            (InputButton::WheelUp, true) => Step::Wheel(Axis::Vertical, 1),
            (InputButton::WheelDown, true) => Step::Wheel(Axis::Vertical, -1),
            (InputButton::WheelLeft, true) => Step::Wheel(Axis::Horizontal, -1),
            (InputButton::WheelRight, true) => Step::Wheel(Axis::Horizontal, 1),
        },
    })
}

fn full() -> Error {
    Error::generic("the guest has not taken its earlier input: send less at once, or try again later")
}

/// Presses keys, all or none of them, and returns a release of them.
fn press(keyboard: &Arc<Feed>, codes: Vec<u16>) -> Result<impl FnOnce() + 'static> {
    if !keyboard.has_room(codes.len()) {
        return Err(full());
    }
    let is_taken = codes.iter().all(|code| keyboard.key(*code, true));
    let release = {
        let keyboard = keyboard.clone();
        move || {
            for code in codes.iter().rev() {
                keyboard.key(*code, false);
            }
        }
    };
    if !is_taken {
        // A VNC client was quicker.
        release();
        return Err(full());
    }
    Ok(release)
}

/// Returns the number of inputs for which a device needs room, to take all of these steps.
fn needs(mut steps: Vec<&Step>) -> usize {
    // Of moves without anything between only the last waits, and releases are always taken.
    let is_move = |step: &Step| matches!(step, Step::Position(..));
    steps.dedup_by(|next, last| is_move(next) && is_move(last));
    let is_release = |step: &&Step| matches!(step, Step::Key(_, false) | Step::Button(_, false));
    if steps.iter().all(is_release) { 0 } else { steps.len() }
}

/// Performs the steps, all or none of them. `position` is where the monitor's clients have the pointer.
fn perform(hands: &Hands, position: &Cell<(u32, u32)>, steps: &[Step]) -> Result<()> {
    let Hands { keyboard, tablet } = hands;
    let (keys, others): (Vec<_>, Vec<_>) = steps.iter().partition(|step| matches!(step, Step::Key(..)));
    if !keyboard.has_room(needs(keys)) || !tablet.has_room(needs(others)) {
        return Err(full());
    }
    let mut is_taken = true;
    for step in steps {
        is_taken &= match *step {
            Step::Key(code, down) => keyboard.key(code, down),
            Step::Button(code, down) => tablet.key(code, down),
            Step::Wheel(axis, steps) => tablet.wheel(axis, steps),
            Step::Nothing => true,
            Step::Position(axis, value) => {
                let (x, y) = position.get();
                let to = if axis == InputAxis::X { (value, y) } else { (x, value) };
                position.set(to);
                tablet.point(to.0, to.1)
            }
        };
    }
    // It is not if a VNC client was quicker.
    if is_taken { Ok(()) } else { Err(full()) }
}

impl Control {
    fn screen(&self) -> Result<&Rc<Screen>> {
        self.screen.as_ref().ok_or_else(|| Error::generic("no screen: start the program with --vnc"))
    }

    /// Returns the password of the VNC server.
    fn vnc_password(&self) -> Result<&Password> {
        let screen = self.screen.as_ref().ok_or_else(|| Error::generic("no VNC server"))?;
        let off = "the VNC server asks for no password: start the program with --vnc ...,password=on";
        screen.password.as_ref().ok_or_else(|| Error::generic(off))
    }

    fn set_vnc_password(&self, password: &str) -> Result<Empty> {
        self.vnc_password()?.set(password).map_err(|e| Error::generic(e.to_string()))?;
        Ok(Empty {})
    }

    /// Serves `change` of the device `vnc`.
    pub(super) fn change_vnc(&self, arguments: Change) -> Result<Empty> {
        self.vnc_password()?;
        if !matches!(arguments.target.as_str(), "password" | "passwd") {
            return Err(Error::generic("Expected 'password' after 'vnc'"));
        }
        let password =
            arguments.arg.ok_or_else(|| Error::generic("Parameter 'arg' is missing: the password"))?;
        self.set_vnc_password(&password)
    }
}

impl ScreenCommands for Control {
    async fn query_vnc(&self, _: QueryVnc) -> Result<VncInfo> {
        let Some(screen) = &self.screen else {
            let none = VncInfo {
                enabled: false,
                host: None,
                family: None,
                service: None,
                auth: None,
                clients: None,
            };
            return Ok(none);
        };
        let (host, service, family) = described(&screen.endpoint);
        Ok(VncInfo {
            enabled: true,
            host: Some(host),
            family: Some(family),
            service: Some(service),
            auth: Some(screen.security.name().to_owned()),
            clients: Some(screen.clients().await.iter().map(client).collect()),
        })
    }

    async fn set_password(&self, arguments: SetPassword) -> Result<Empty> {
        check_protocol(arguments.protocol)?;
        if !matches!(arguments.connected, None | Some(SetPasswordAction::Keep)) {
            // QEMU's words.
            return Err(Error::generic("parameter 'connected' must be 'keep' when 'protocol' is 'vnc'"));
        }
        self.set_vnc_password(&arguments.password)
    }

    async fn expire_password(&self, arguments: ExpirePassword) -> Result<Empty> {
        check_protocol(arguments.protocol)?;
        self.vnc_password()?.expire(time(&arguments.time)?);
        Ok(Empty {})
    }

    async fn screendump(&self, arguments: Screendump) -> Result<Empty> {
        let (size, pixels) = self.screen()?.pixels();
        let name = arguments.filename.clone();
        let written = executor::unconfined(move || {
            let picture = match arguments.format.unwrap_or(ImageFormat::Ppm) {
                ImageFormat::Ppm => picture::ppm(size, &pixels),
                ImageFormat::Png => picture::png(size, &pixels),
            };
            std::fs::write(&arguments.filename, picture?)
        });
        written.await.map_err(|e| Error::generic(format!("cannot write {name}: {e}")))?;
        Ok(Empty {})
    }

    async fn send_key(&self, arguments: SendKey) -> Result<Empty> {
        let keyboard = self.screen()?.hands.keyboard.clone();
        let hold = match arguments.hold_time {
            None => HOLD,
            Some(time @ 0..=HOLD_MAX) => Duration::from_millis(time.unsigned_abs()),
            Some(time) => return Err(Error::generic(format!("hold-time {time}: give 0 to {HOLD_MAX}"))),
        };
        let codes = arguments.keys.iter().map(code).collect::<Result<Vec<_>>>()?;
        let release = press(&keyboard, codes)?;
        // A task of its own: the keys go up even if the client goes away.
        let released = executor::spawn(async move {
            executor::sleep(hold).await;
            release();
        });
        released.await;
        Ok(Empty {})
    }

    async fn input_send_event(&self, arguments: InputSendEvent) -> Result<Empty> {
        let screen = self.screen()?;
        // All are checked before the first takes effect.
        let steps = arguments.events.iter().map(step).collect::<Result<Vec<_>>>()?;
        perform(&screen.hands, &screen.position, &steps)?;
        Ok(Empty {})
    }
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
