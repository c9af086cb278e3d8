//! The description of both devices.

use super::*;

fn read(kind: Kind, select: u8, subsel: u8) -> Vec<u8> {
    let choice = Choice::default();
    choice.write(0, &[select, subsel]);
    let config = choice.config(kind);
    assert_eq!((config.select, config.subsel), (select, subsel));
    assert!(config.data[usize::from(config.size)..].iter().all(|byte| *byte == 0));
    config.data[..usize::from(config.size)].to_vec()
}

#[test]
fn a_driver_reads_names_ids_and_bits() {
    assert_eq!(read(Kind::Keyboard, ID_NAME, 0), b"Millrace Keyboard");
    assert_eq!(read(Kind::Tablet, ID_NAME, 0), b"Millrace Tablet");
    assert_eq!(read(Kind::Tablet, ID_DEVIDS, 0), [6, 0, 0, 0, 2, 0, 1, 0]);
    let keys = read(Kind::Keyboard, EV_BITS, 1);
    assert_eq!((keys.len(), keys[0], keys[1], keys[31]), (32, 0xfe, 0xff, 1));
    assert_eq!(read(Kind::Keyboard, EV_BITS, 0x11), [7], "three lamps");
    assert!(read(Kind::Tablet, EV_BITS, 0x11).is_empty());
    let buttons = read(Kind::Tablet, EV_BITS, 1);
    assert_eq!((buttons.len(), buttons[34]), (35, 0x1f));
    assert_eq!(read(Kind::Tablet, EV_BITS, 2), [1 << 6, 1]);
    assert_eq!(read(Kind::Tablet, EV_BITS, 3), [3]);
    for axis in [0, 1] {
        assert_eq!(read(Kind::Tablet, ABS_INFO, axis)[4..8], [0xff, 0x7f, 0, 0]);
    }
    assert!(read(Kind::Keyboard, ABS_INFO, 0).is_empty());
}

#[test]
fn whatever_a_driver_chooses_and_writes_a_piece_fits() {
    for select in 0..=u8::MAX {
        for subsel in 0..=u8::MAX {
            for kind in [Kind::Keyboard, Kind::Tablet] {
                assert!(read(kind, select, subsel).len() <= 128);
            }
        }
    }
    let choice = Choice::default();
    choice.write(1, &[7, 9, 9]);
    choice.write(2, &[1; 200]);
    choice.write(u64::MAX, &[1]);
    let config = choice.config(Kind::Tablet);
    assert_eq!((config.select, config.subsel, config.size), (0, 7, 0));
    choice.clear();
    assert_eq!(choice.config(Kind::Tablet).subsel, 0);
}
