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

/// A keyboard and a tablet of a guest that has a driver and takes nothing.
fn hands() -> Hands {
    let hands = Hands::new().unwrap();
    hands.keyboard.restart(true);
    hands.tablet.restart(true);
    hands
}

#[test]
fn input_that_does_not_fit_is_refused_as_a_whole() {
    let (hands, position) = (hands(), Cell::default());
    let refused = |steps: &[Step]| perform(&hands, &position, steps).unwrap_err().to_string();
    let typed = |count: usize| (0..count).flat_map(|_| [Step::Key(30, true), Step::Key(30, false)]);
    let said = refused(&typed(600).collect::<Vec<_>>());
    assert!(said.contains("has not taken its earlier input") && !said.contains('\n'), "{said}");
    // Nothing of it waits: all of this has room.
    perform(&hands, &position, &typed(171).collect::<Vec<_>>()).unwrap();
    let moves: Vec<_> = (0..5000).map(|n| Step::Position(InputAxis::Y, n)).collect();
    perform(&hands, &position, &moves).unwrap();
    perform(&hands, &position, &[Step::Position(InputAxis::Y, 0)]).unwrap();
    while hands.keyboard.key(30, true) {}
    refused(&[Step::Position(InputAxis::X, 7), Step::Key(31, true)]);
    assert_eq!(position.get(), (0, 0), "the tablet had room, and got nothing");
    perform(&hands, &position, &[Step::Key(30, false)]).unwrap();
    perform(&hands, &position, &[Step::Position(InputAxis::X, 7), Step::Nothing]).unwrap();
    while hands.tablet.wheel(Axis::Vertical, 1) {}
    for step in
        [Step::Wheel(Axis::Vertical, 1), Step::Position(InputAxis::Y, 7), Step::Button(BTN_LEFT, true)]
    {
        refused(&[step]);
    }
    assert_eq!(position.get(), (7, 0));
}

#[test]
fn keys_that_do_not_fit_are_refused_and_a_guest_without_a_driver_loses_them() {
    let hands = hands();
    press(&hands.keyboard, vec![29, 30]).unwrap()();
    while hands.keyboard.key(30, true) {}
    assert!(press(&hands.keyboard, vec![29]).is_err());
    hands.keyboard.restart(false);
    // As QEMU does.
    press(&hands.keyboard, vec![29, 30]).unwrap()();
}
