//! QAPI's key codes, with Linux's key code of each.
#![allow(missing_docs, reason = "the names of the variants are those of the keys")]

use crate::schema::qapi_enum;

qapi_enum! {
    /// A key, by the symbol that a US keyboard has on it.
    enum QKeyCode {
        Unmapped = "unmapped", Shift = "shift", ShiftR = "shift_r", Alt = "alt", AltR = "alt_r",
        Ctrl = "ctrl", CtrlR = "ctrl_r", Menu = "menu", Esc = "esc", Digit1 = "1", Digit2 = "2", Digit3 = "3",
        Digit4 = "4", Digit5 = "5", Digit6 = "6", Digit7 = "7", Digit8 = "8", Digit9 = "9", Digit0 = "0",
        Minus = "minus", Equal = "equal", Backspace = "backspace", Tab = "tab", Q = "q", W = "w", E = "e",
        R = "r", T = "t", Y = "y", U = "u", I = "i", O = "o", P = "p", BracketLeft = "bracket_left",
        BracketRight = "bracket_right", Ret = "ret", A = "a", S = "s", D = "d", F = "f", G = "g", H = "h",
        J = "j", K = "k", L = "l", Semicolon = "semicolon", Apostrophe = "apostrophe",
        GraveAccent = "grave_accent", Backslash = "backslash", Z = "z", X = "x", C = "c", V = "v", B = "b",
        N = "n", M = "m", Comma = "comma", Dot = "dot", Slash = "slash", Asterisk = "asterisk", Spc = "spc",
        CapsLock = "caps_lock", F1 = "f1", F2 = "f2", F3 = "f3", F4 = "f4", F5 = "f5", F6 = "f6", F7 = "f7",
        F8 = "f8", F9 = "f9", F10 = "f10", NumLock = "num_lock", ScrollLock = "scroll_lock",
        KpDivide = "kp_divide", KpMultiply = "kp_multiply", KpSubtract = "kp_subtract", KpAdd = "kp_add",
        KpEnter = "kp_enter", KpDecimal = "kp_decimal", Sysrq = "sysrq", Kp0 = "kp_0", Kp1 = "kp_1",
        Kp2 = "kp_2", Kp3 = "kp_3", Kp4 = "kp_4", Kp5 = "kp_5", Kp6 = "kp_6", Kp7 = "kp_7", Kp8 = "kp_8",
        Kp9 = "kp_9", Less = "less", F11 = "f11", F12 = "f12", Print = "print", Home = "home", Pgup = "pgup",
        Pgdn = "pgdn", End = "end", Left = "left", Up = "up", Down = "down", Right = "right",
        Insert = "insert", Delete = "delete", Stop = "stop", Again = "again", Props = "props", Undo = "undo",
        Front = "front", Copy = "copy", Open = "open", Paste = "paste", Find = "find", Cut = "cut", Lf = "lf",
        Help = "help", MetaL = "meta_l", MetaR = "meta_r", Compose = "compose", Pause = "pause", Ro = "ro",
        Hiragana = "hiragana", Henkan = "henkan", Yen = "yen", Muhenkan = "muhenkan",
        Katakanahiragana = "katakanahiragana", KpComma = "kp_comma", KpEquals = "kp_equals", Power = "power",
        Sleep = "sleep", Wake = "wake", Audionext = "audionext", Audioprev = "audioprev",
        Audiostop = "audiostop", Audioplay = "audioplay", Audiomute = "audiomute", Volumeup = "volumeup",
        Volumedown = "volumedown", Mediaselect = "mediaselect", Mail = "mail", Calculator = "calculator",
        Computer = "computer", AcHome = "ac_home", AcBack = "ac_back", AcForward = "ac_forward",
        AcRefresh = "ac_refresh", AcBookmarks = "ac_bookmarks", Lang1 = "lang1", Lang2 = "lang2", F13 = "f13",
        F14 = "f14", F15 = "f15", F16 = "f16", F17 = "f17", F18 = "f18", F19 = "f19", F20 = "f20",
        F21 = "f21", F22 = "f22", F23 = "f23", F24 = "f24",
    }
}

/// Linux's key code (include/uapi/linux/input-event-codes.h) of each key, in the order of
/// [`QKeyCode::ALL`]. 0 stands for no key.
#[rustfmt::skip]
const CODES: [u16; 162] = [
    0, 42, 54, 56, 100, 29, 97, 139, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20,
    21, 22, 23, 24, 25, 26, 27, 28, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 43, 44, 45, 46, 47, 48,
    49, 50, 51, 52, 53, 55, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 98, 55, 74, 78, 96, 83,
    99, 82, 79, 80, 81, 75, 76, 77, 71, 72, 73, 86, 87, 88, 99, 102, 104, 109, 107, 105, 103, 108, 106, 110,
    111, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 101, 138, 125, 126, 127, 119, 89, 91, 92, 124, 94,
    93, 121, 117, 116, 142, 143, 163, 165, 166, 164, 113, 115, 114, 226, 155, 140, 157, 172, 158, 159, 173,
    156, 122, 123, 183, 184, 185, 186, 187, 188, 189, 190, 191, 192, 193, 194,
];

impl QKeyCode {
    /// Returns Linux's code of the key, or `None` for `unmapped`.
    pub fn linux(self) -> Option<u16> {
        CODES.get(self as usize).copied().filter(|code| *code != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_code() {
        assert_eq!(QKeyCode::ALL.len(), CODES.len());
        for (name, code) in [("q", 16), ("0", 11), ("ret", 28), ("f10", 68), ("kp_enter", 96), ("f24", 194)] {
            let key = QKeyCode::ALL.iter().find(|key| key.as_str() == name).unwrap();
            assert_eq!(key.linux(), Some(code), "{name}");
        }
        assert_eq!(QKeyCode::Unmapped.linux(), None);
        assert_eq!(QKeyCode::ALL.iter().filter(|key| key.linux().is_none()).count(), 1);
    }
}
