use std::collections::BTreeMap;

use super::*;

#[test]
fn every_printing_character_is_a_key_and_no_two_share_one_with_the_same_shift() {
    let mut seen = BTreeMap::new();
    for symbol in '!'..='~' {
        let key = from_keysym(symbol as u32).unwrap_or_else(|| panic!("no key for {symbol}"));
        assert!(key.shift.is_some(), "{symbol}");
        assert_eq!(seen.insert((key.code, key.shift), symbol), None, "{symbol}");
        assert_eq!(from_keysym(0x0100_0000 + symbol as u32), Some(key), "{symbol}");
    }
    // 47 keys, each with and without Shift.
    assert_eq!(seen.len(), 94);
    assert_eq!(from_keysym(' ' as u32), Some(Key { code: 57, shift: None, letter: false }));
}

#[test]
fn letters_and_their_shift() {
    let key = |code, shift| Some(Key { code, shift: Some(shift), letter: true });
    assert_eq!(from_keysym('a' as u32), key(30, false));
    assert_eq!(from_keysym('A' as u32), key(30, true));
    assert_eq!(from_keysym('z' as u32), key(44, false));
    assert!(!from_keysym('1' as u32).unwrap().letter);
}

#[test]
fn function_keys_are_where_linux_has_them() {
    let codes: Vec<u16> = (0..24).map(|n| from_keysym(F1 + n).unwrap().code).collect();
    let linux: Vec<u16> = (59..=68).chain([87, 88]).chain(183..=194).collect();
    assert_eq!(codes, linux);
}

#[test]
fn symbols_that_no_us_key_makes_are_no_key() {
    // u with diaeresis, the euro sign as X and as Unicode, dead circumflex, F25, nothing.
    for keysym in [0xfc, 0x20ac, 0x0100_20ac, 0xfe52, 0xffd6, 0, u32::MAX] {
        assert_eq!(from_keysym(keysym), None, "{keysym:#x}");
    }
}

#[test]
fn scancodes_name_the_same_keys_as_keysyms_do() {
    // Scancode, keysym: digits and letters, F11, the keys behind 0xe0, and keys that Linux numbered anew.
    let same = [
        (0x01, 0xff1b),
        (0x1e, 'a' as u32),
        (0x2b, '\\' as u32),
        (0x35, '/' as u32),
        (0x39, ' ' as u32),
        (0x57, 0xffc8),
        (0x9c, 0xff8d),
        (0x9d, 0xffe4),
        (0xb5, 0xffaf),
        (0xb7, 0xff61),
        (0xb8, 0xffea),
        (0xc6, 0xff13),
        (0xc7, 0xff50),
        (0xc8, 0xff52),
        (0xcb, 0xff51),
        (0xd3, 0xffff),
        (0xdb, 0xffeb),
        (0xdd, 0xff67),
    ];
    for (scancode, keysym) in same {
        let key = from_keysym(keysym).unwrap();
        assert_eq!(from_scancode(scancode), Some(key.code), "{scancode:#x} {keysym:#x}");
    }
    for nothing in [0, 0x55, 0x7f, 0x80, 0x81, 0xff, 0x100, 0xe01d, u32::MAX] {
        assert_eq!(from_scancode(nothing), None, "{nothing:#x}");
    }
}
