//! Types and codes of events (Linux, include/uapi/linux/input-event-codes.h) that are not only passed on.

/// The end of what happens at once.
pub const EV_SYN: u16 = 0;
/// Keys and buttons: 0 is up, 1 down, 2 a repetition.
pub const EV_KEY: u16 = 1;
/// Relative movements.
pub const EV_REL: u16 = 2;
/// Absolute positions.
pub const EV_ABS: u16 = 3;

/// Lamps: 0 is dark, anything else is lit. The driver sends these.
pub const EV_LED: u16 = 0x11;

/// The lamp of Num Lock.
pub const LED_NUML: u16 = 0;
/// The lamp of Caps Lock.
pub const LED_CAPSL: u16 = 1;
/// The lamp of Scroll Lock.
pub const LED_SCROLLL: u16 = 2;

/// The last key of the keyboard (KEY_MICMUTE). Its first is 1 (KEY_ESC).
pub const LAST_KEY: u16 = 248;

/// The left button.
pub const BTN_LEFT: u16 = 0x110;
/// The right button.
pub const BTN_RIGHT: u16 = 0x111;
/// The middle button.
pub const BTN_MIDDLE: u16 = 0x112;
/// A button at the side, often for going back.
pub const BTN_SIDE: u16 = 0x113;
/// Another button at the side, often for going forward.
pub const BTN_EXTRA: u16 = 0x114;

/// The wheel to the sides; positive is right.
pub const REL_HWHEEL: u16 = 6;
/// The wheel; positive is away from the user.
pub const REL_WHEEL: u16 = 8;

/// The horizontal position.
pub const ABS_X: u16 = 0;
/// The vertical position.
pub const ABS_Y: u16 = 1;
/// The greatest value of a position; the least is 0.
pub const ABS_MAX: u32 = 0x7fff;
