//! Times of expiry, and keys.

use super::*;

#[test]
fn times_of_expiry_are_those_of_qemu() {
    assert_eq!(time("never").unwrap(), None);
    assert_eq!(time("86400").unwrap(), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(86400)));
    assert!(time("now").unwrap().unwrap() <= SystemTime::now());
    assert!(time("+1000").unwrap().unwrap() > SystemTime::now());
    for wrong in ["", "+", "-1", "soon", "+ 1", "1.5", "18446744073709551615"] {
        assert!(time(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn keys_have_names_and_scancodes() {
    assert_eq!(code(&KeyValue::Qcode(QKeyCode::Ret)).unwrap(), 28);
    assert_eq!(code(&KeyValue::Number(0x1c)).unwrap(), 28);
    assert_eq!(code(&KeyValue::Number(0x9c)).unwrap(), 96, "the keypad's Enter");
    assert!(code(&KeyValue::Number(-1)).is_err() && code(&KeyValue::Qcode(QKeyCode::Unmapped)).is_err());
}
