//! Keys: X keysyms and XT scancodes as Linux's key codes, for a US keyboard.
//!
//! RFB has two kinds of key events. The plain one names the symbol that the client's layout made
//! ([keysym](from_keysym)): the guest's keyboard needs the key, and Shift if the US layout has the symbol on
//! its upper half. The one that QEMU added names the key itself ([scancode](from_scancode)), whatever the
//! layouts of client and guest.

/// A key of a US keyboard that makes a symbol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// Linux's code of the key.
    pub code: u16,
    /// The state of Shift that the symbol needs; `None` if the key means the same with and without it.
    pub shift: Option<bool>,
    /// True for letters, for which Caps Lock inverts Shift.
    pub letter: bool,
}

/// Linux's codes of keys that the server itself needs (`linux/input-event-codes.h`).
pub mod code {
    /// The left Shift.
    pub const LEFT_SHIFT: u16 = 42;
    /// The right Shift.
    pub const RIGHT_SHIFT: u16 = 54;
    /// Caps Lock.
    pub const CAPS_LOCK: u16 = 58;
}

/// The printing keys of a US keyboard: code, symbol, symbol with Shift.
const PRINTING: &[(u16, char, char)] = &[
    (2, '1', '!'),
    (3, '2', '@'),
    (4, '3', '#'),
    (5, '4', '$'),
    (6, '5', '%'),
    (7, '6', '^'),
    (8, '7', '&'),
    (9, '8', '*'),
    (10, '9', '('),
    (11, '0', ')'),
    (12, '-', '_'),
    (13, '=', '+'),
    (16, 'q', 'Q'),
    (17, 'w', 'W'),
    (18, 'e', 'E'),
    (19, 'r', 'R'),
    (20, 't', 'T'),
    (21, 'y', 'Y'),
    (22, 'u', 'U'),
    (23, 'i', 'I'),
    (24, 'o', 'O'),
    (25, 'p', 'P'),
    (26, '[', '{'),
    (27, ']', '}'),
    (30, 'a', 'A'),
    (31, 's', 'S'),
    (32, 'd', 'D'),
    (33, 'f', 'F'),
    (34, 'g', 'G'),
    (35, 'h', 'H'),
    (36, 'j', 'J'),
    (37, 'k', 'K'),
    (38, 'l', 'L'),
    (39, ';', ':'),
    (40, '\'', '"'),
    (41, '`', '~'),
    (43, '\\', '|'),
    (44, 'z', 'Z'),
    (45, 'x', 'X'),
    (46, 'c', 'C'),
    (47, 'v', 'V'),
    (48, 'b', 'B'),
    (49, 'n', 'N'),
    (50, 'm', 'M'),
    (51, ',', '<'),
    (52, '.', '>'),
    (53, '/', '?'),
];

/// The other keys: keysym (`X11/keysymdef.h`, `X11/XF86keysym.h`), code.
const OTHERS: &[(u32, u16)] = &[
    (0x0020, 57),      // space
    (0xff08, 14),      // BackSpace
    (0xff09, 15),      // Tab
    (0xfe20, 15),      // ISO_Left_Tab: Tab with Shift
    (0xff0a, 28),      // Linefeed
    (0xff0d, 28),      // Return
    (0xff13, 119),     // Pause
    (0xff6b, 119),     // Break
    (0xff14, 70),      // Scroll_Lock
    (0xff15, 99),      // Sys_Req
    (0xff61, 99),      // Print
    (0xff1b, 1),       // Escape
    (0xffff, 111),     // Delete
    (0xff50, 102),     // Home
    (0xff51, 105),     // Left
    (0xff52, 103),     // Up
    (0xff53, 106),     // Right
    (0xff54, 108),     // Down
    (0xff55, 104),     // Page_Up
    (0xff56, 109),     // Page_Down
    (0xff57, 107),     // End
    (0xff63, 110),     // Insert
    (0xff67, 127),     // Menu
    (0xff6a, 138),     // Help
    (0xff7f, 69),      // Num_Lock
    (0xff80, 57),      // KP_Space
    (0xff89, 15),      // KP_Tab
    (0xff8d, 96),      // KP_Enter
    (0xff95, 71),      // KP_Home
    (0xff96, 75),      // KP_Left
    (0xff97, 72),      // KP_Up
    (0xff98, 77),      // KP_Right
    (0xff99, 80),      // KP_Down
    (0xff9a, 73),      // KP_Page_Up
    (0xff9b, 81),      // KP_Page_Down
    (0xff9c, 79),      // KP_End
    (0xff9d, 76),      // KP_Begin
    (0xff9e, 82),      // KP_Insert
    (0xff9f, 83),      // KP_Delete
    (0xffaa, 55),      // KP_Multiply
    (0xffab, 78),      // KP_Add
    (0xffac, 121),     // KP_Separator
    (0xffad, 74),      // KP_Subtract
    (0xffae, 83),      // KP_Decimal
    (0xffaf, 98),      // KP_Divide
    (0xffb0, 82),      // KP_0
    (0xffb1, 79),      // KP_1
    (0xffb2, 80),      // KP_2
    (0xffb3, 81),      // KP_3
    (0xffb4, 75),      // KP_4
    (0xffb5, 76),      // KP_5
    (0xffb6, 77),      // KP_6
    (0xffb7, 71),      // KP_7
    (0xffb8, 72),      // KP_8
    (0xffb9, 73),      // KP_9
    (0xffbd, 117),     // KP_Equal
    (0xffe1, 42),      // Shift_L
    (0xffe2, 54),      // Shift_R
    (0xffe3, 29),      // Control_L
    (0xffe4, 97),      // Control_R
    (0xffe5, 58),      // Caps_Lock
    (0xffe6, 58),      // Shift_Lock
    (0xffe7, 56),      // Meta_L
    (0xffe8, 100),     // Meta_R
    (0xffe9, 56),      // Alt_L
    (0xffea, 100),     // Alt_R
    (0xfe03, 100),     // ISO_Level3_Shift, AltGr
    (0xff7e, 100),     // Mode_switch
    (0xffeb, 125),     // Super_L
    (0xffec, 126),     // Super_R
    (0xffed, 125),     // Hyper_L
    (0xffee, 126),     // Hyper_R
    (0xff65, 131),     // Undo
    (0xff66, 129),     // Redo, on the key Again
    (0xff68, 136),     // Find
    (0x1008ff11, 114), // XF86AudioLowerVolume
    (0x1008ff12, 113), // XF86AudioMute
    (0x1008ff13, 115), // XF86AudioRaiseVolume
];

/// The keysyms of F1 to F24.
const F1: u32 = 0xffbe;

/// Returns the key of a US keyboard that makes the symbol `keysym`. `None` if no key does.
///
/// Besides X's own numbers it takes those of Unicode (`0x01000000` and the character), and for characters up
/// to 0xff the character itself is the number (X Window System Protocol, appendix A).
pub fn from_keysym(keysym: u32) -> Option<Key> {
    let keysym = match keysym {
        0x0100_0020..=0x0100_007e => keysym - 0x0100_0000,
        other => other,
    };
    if let 0x21..=0x7e = keysym {
        let symbol = char::from(keysym as u8);
        let (code, plain, _) =
            *PRINTING.iter().find(|(_, plain, shifted)| *plain == symbol || *shifted == symbol)?;
        let shift = Some(plain != symbol);
        return Some(Key { code, shift, letter: symbol.is_ascii_alphabetic() });
    }
    let code = match keysym {
        F1..0xffc8 => 59 + (keysym - F1) as u16,
        0xffc8 | 0xffc9 => 87 + (keysym - 0xffc8) as u16,
        0xffca..=0xffd5 => 183 + (keysym - 0xffca) as u16,
        other => OTHERS.iter().find(|(keysym, _)| *keysym == other)?.1,
    };
    Some(Key { code, shift: None, letter: false })
}

/// Scancodes whose number is not Linux's code, both as in [`from_scancode`].
const SCANCODES: &[(u32, u16)] = &[
    (0x54, 99),  // Alt+SysRq
    (0x59, 117), // keypad =
    (0x5d, 183), // F13, and the next two: F14, F15
    (0x5e, 184),
    (0x5f, 185),
    (0x70, 93),  // Katakana/Hiragana
    (0x73, 89),  // Ro
    (0x77, 91),  // Hiragana
    (0x78, 90),  // Katakana
    (0x79, 92),  // Henkan
    (0x7b, 94),  // Muhenkan
    (0x7d, 124), // Yen
    (0x7e, 121), // keypad comma
    (0x90, 165), // previous song
    (0x99, 163), // next song
    (0x9c, 96),  // keypad Enter
    (0x9d, 97),  // right Ctrl
    (0xa0, 113), // mute
    (0xa1, 140), // calculator
    (0xa2, 164), // play, pause
    (0xa4, 166), // stop
    (0xae, 114), // volume down
    (0xb0, 115), // volume up
    (0xb2, 172), // home page
    (0xb5, 98),  // keypad /
    (0xb7, 99),  // Print, SysRq
    (0xb8, 100), // right Alt
    (0xc6, 119), // Pause
    (0xc7, 102), // Home
    (0xc8, 103), // Up
    (0xc9, 104), // Page Up
    (0xcb, 105), // Left
    (0xcd, 106), // Right
    (0xcf, 107), // End
    (0xd0, 108), // Down
    (0xd1, 109), // Page Down
    (0xd2, 110), // Insert
    (0xd3, 111), // Delete
    (0xdb, 125), // left Meta
    (0xdc, 126), // right Meta
    (0xdd, 127), // Compose, the menu key
    (0xde, 116), // power
    (0xdf, 142), // sleep
    (0xe3, 143), // wake up
];

/// Returns Linux's code of the key with an XT scancode, as QEMU's extended key event has it ("QEMU Extended
/// Key Event Message" of the community's RFB specification, rfbproto): the code of a key that the keyboard
/// sends after the byte 0xe0 has its bit 0x80 set. `None` if it is no key.
pub fn from_scancode(scancode: u32) -> Option<u16> {
    match scancode {
        // Linux numbered its keys after these.
        1..=0x53 | 0x56..=0x58 => Some(scancode as u16),
        other => SCANCODES.iter().find(|(scancode, _)| *scancode == other).map(|(_, code)| *code),
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
