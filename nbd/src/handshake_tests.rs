//! Every option, its answers, and what ends the connection.

use super::*;
use crate::testing::{Session, info_data, is_violation, option as message, queries, string};

fn flags(info: &[u8]) -> u16 {
    u16::from_be_bytes(info[10..12].try_into().unwrap())
}

#[test]
fn exports_are_listed() {
    let mut session = Session::start(512, false);
    session.greet(3);
    session.send(&message(option::LIST, &[]));
    assert_eq!(session.answer(), (option::LIST, rep::SERVER, string("disk")));
    assert_eq!(session.answer(), (option::LIST, rep::SERVER, string("größe")));
    assert_eq!(session.answer(), (option::LIST, rep::ACK, vec![]));
    session.send(&message(option::LIST, &[0]));
    assert_eq!(session.answer().1, rep::ERR_INVALID);
    session.send(&message(option::ABORT, &[]));
    assert_eq!(session.answer(), (option::ABORT, rep::ACK, vec![]));
    assert!(matches!(session.end(), Ok(false)));
}

#[test]
fn information_is_what_was_asked_for() {
    let mut session = Session::start(1 << 20, false);
    session.greet(3);
    session.send(&message(option::INFO, &info_data("disk", &[3, 77, 1, 2, 1, 3])));
    let (_, kind, export) = session.answer();
    assert_eq!((kind, export.len()), (rep::INFO, 12));
    assert_eq!(export[2..10], (1u64 << 20).to_be_bytes());
    assert_eq!(flags(&export), 1 | 4 | 8 | 32 | 64 | 256 | 1024 | 2048);
    assert_eq!(session.answer().2, b"\0\x03\0\0\0\x01\0\0\x10\0\x02\0\0\0");
    assert_eq!(session.answer().2, b"\0\x01disk");
    assert_eq!(session.answer().2, b"\0\x02a fake");
    assert_eq!(session.answer(), (option::INFO, rep::ACK, vec![]));
    // The negotiation goes on; another export has no description.
    session.send(&message(option::INFO, &info_data("größe", &[2])));
    assert_eq!(session.answer().1, rep::INFO);
    assert_eq!(session.answer().1, rep::ACK);
    session.send(&message(option::STRUCTURED_REPLY, &[]));
    assert_eq!(session.answer().1, rep::ACK);
    session.send(&message(option::GO, &info_data("disk", &[])));
    assert_eq!(flags(&session.answer().2) & can::DF, can::DF);
    assert_eq!(session.answer(), (option::GO, rep::ACK, vec![]));
    assert!(matches!(session.end(), Ok(true)));
}

#[test]
fn a_read_only_export_says_so() {
    let mut session = Session::start(512, true);
    session.greet(3);
    session.send(&message(option::GO, &info_data("disk", &[])));
    assert_eq!(flags(&session.answer().2), 1 | 2 | 4 | 8 | 256 | 1024);
    assert!(matches!(session.end(), Ok(true) | Err(Disconnect::Io(_))));
}

#[test]
fn what_is_wrong_is_refused_and_the_haggling_goes_on() {
    let mut session = Session::start(512, false);
    session.greet(3);
    let count_too_high = [&string("disk")[..], &[0, 2, 0, 3]].concat();
    let trailing = [&info_data("disk", &[])[..], &[0]].concat();
    let long = info_data(&"x".repeat(proto::MAX_STRING + 1), &[]);
    for (kind, data, error) in [
        (option::GO, info_data("nobody", &[]), rep::ERR_UNKNOWN),
        (option::INFO, info_data("", &[]), rep::ERR_UNKNOWN),
        (option::INFO, info_data(&"x".repeat(proto::MAX_STRING), &[]), rep::ERR_UNKNOWN),
        (option::GO, vec![], rep::ERR_INVALID),
        (option::GO, vec![0xff; 6], rep::ERR_INVALID),
        (option::GO, count_too_high, rep::ERR_INVALID),
        (option::GO, trailing, rep::ERR_INVALID),
        (option::GO, long, rep::ERR_INVALID),
        (option::GO, [&[0, 0, 0, 1, 0xff][..], &[0, 0]].concat(), rep::ERR_INVALID),
        (option::STRUCTURED_REPLY, vec![1], rep::ERR_INVALID),
        (option::LIST_META_CONTEXT, queries("disk", &[]), rep::ERR_INVALID),
        (option::SET_META_CONTEXT, queries("disk", &[]), rep::ERR_INVALID),
        (option::STARTTLS, vec![], rep::ERR_POLICY),
        // PEEK_EXPORT, EXTENDED_HEADERS, and an option that nobody has defined.
        (4, vec![], rep::ERR_UNSUP),
        (11, vec![], rep::ERR_UNSUP),
        (u32::MAX, vec![0; MAX_OPTION], rep::ERR_UNSUP),
    ] {
        session.send(&message(kind, &data));
        let (option, answer, _) = session.answer();
        assert_eq!((option, answer), (kind, error), "option {kind}");
    }
    assert!(matches!(session.end(), Ok(false)));
}

#[test]
fn contexts_are_listed_and_set() {
    let mut session = Session::start(512, false);
    session.greet(3);
    session.send(&message(option::STRUCTURED_REPLY, &[]));
    session.answer();
    let both: &[u32] = &[0, 1];
    let list = option::LIST_META_CONTEXT;
    let set = option::SET_META_CONTEXT;
    for (kind, asked, ids) in [
        (list, &[][..], both),
        (list, &["base:"], &[0]),
        (list, &["qemu:"], &[1]),
        (list, &["qemu:allocation-depth", "base:allocation"], both),
        (list, &["base", "qemu:dirty-bitmap:", "x:"], &[]),
        (set, &["base:allocation", "base:allocation"], &[0]),
        (set, &["base:allocation", "qemu:allocation-depth", "x:y"], both),
        (set, &["base:", ""], &[]),
        (set, &[], &[]),
    ] {
        session.send(&message(kind, &queries("disk", asked)));
        for id in ids {
            let (_, answer, data) = session.answer();
            assert_eq!(answer, rep::META_CONTEXT);
            let shown = if kind == set { *id } else { 0 };
            assert_eq!(data[..4], shown.to_be_bytes());
            assert_eq!(&data[4..], CONTEXTS[*id as usize].as_bytes());
        }
        assert_eq!(session.answer(), (kind, rep::ACK, vec![]), "{asked:?}");
    }
    for (data, error) in [
        (queries("nobody", &["base:allocation"]), rep::ERR_UNKNOWN),
        (vec![0; 7], rep::ERR_INVALID),
        ([&string("disk")[..], &[0xff; 4]].concat(), rep::ERR_INVALID),
    ] {
        session.send(&message(set, &data));
        assert_eq!(session.answer().1, error);
    }
    assert!(matches!(session.end(), Ok(false)));
}

#[test]
fn the_oldest_choice_has_zeroes_unless_refused() {
    for (greeting, len) in [(3, 10), (1, 134), (0, 134)] {
        let mut session = Session::start(1 << 20, false);
        session.greet(greeting);
        session.send(&message(option::EXPORT_NAME, b"disk"));
        let answer = session.receive_vec(len);
        assert_eq!(answer[..8], (1u64 << 20).to_be_bytes());
        assert!(answer[10..].iter().all(|byte| *byte == 0));
        session.send(&crate::testing::request(0, proto::command::FLUSH, 7, 0, 0));
        assert_eq!(session.simple(), (0, 7));
        assert!(matches!(session.end(), Ok(true)));
    }
}

#[test]
fn what_leaves_no_way_on_ends_the_connection() {
    let too_long = option_head(option::LIST, MAX_OPTION as u32 + 1);
    for (greeting, bytes) in [
        (4, vec![]),
        (0, message(option::LIST, &[])),
        (3, vec![b'x'; 16]),
        (3, message(option::EXPORT_NAME, b"nobody")),
        (3, message(option::EXPORT_NAME, b"\xff")),
        (3, message(option::EXPORT_NAME, &[b'x'; proto::MAX_STRING + 1])),
    ] {
        let mut session = Session::start(512, false);
        session.greet(greeting);
        session.send(&bytes);
        session.closed();
        assert!(is_violation(&session.end()));
    }
    let mut session = Session::start(512, false);
    session.greet(3);
    session.send(&too_long);
    assert_eq!(session.answer().1, rep::ERR_TOO_BIG);
    session.closed();
    assert!(is_violation(&session.end()));
}

fn option_head(kind: u32, len: u32) -> Vec<u8> {
    let mut bytes = message(kind, &[]);
    bytes[12..].copy_from_slice(&len.to_be_bytes());
    bytes
}

#[test]
fn hanging_up_is_polite_only_between_options() {
    let mut session = Session::start(512, false);
    session.greet(3);
    session.send(&option_head(option::LIST, 5));
    assert!(matches!(session.end(), Err(Disconnect::Io(_))));
    assert!(matches!(Session::start(512, false).end(), Ok(false) | Err(Disconnect::Io(_))));
}
