//! Every command, every refusal, replies out of order, and clients that do not read.

use std::io::Read;
use std::net::Shutdown;

use proptest::prelude::*;

use super::*;
use crate::proto::chunk;
use crate::testing::{Chunk, PAGE, PATIENCE, Session, failure, is_violation, request};

const MIB: usize = 1 << 20;
const INVALID: u32 = Errno::Invalid as u32;

fn bytes(range: std::ops::Range<usize>) -> Vec<u8> {
    range.map(|at| (at % 251) as u8).collect()
}

fn done(cookie: u64) -> Chunk {
    Chunk { flags: chunk::DONE, kind: chunk::NONE, cookie, payload: vec![] }
}

/// The error of a structured reply: number and text.
fn refused(reply: Chunk) -> (u32, String) {
    assert_eq!((reply.flags, reply.kind), (chunk::DONE, chunk::ERROR));
    let text = String::from_utf8(reply.payload[6..].to_vec()).unwrap();
    assert_eq!(reply.payload[4..6], (text.len() as u16).to_be_bytes());
    (u32::from_be_bytes(reply.payload[..4].try_into().unwrap()), text)
}

#[test]
fn simple_replies_carry_what_was_written() {
    let mut session = Session::transmission(MIB, false, false);
    session.send(&request(0, command::READ, 1, 1000, 300));
    assert_eq!(session.simple(), (0, 1));
    assert_eq!(session.receive_vec(300), bytes(1000..1300));
    session.send(&[request(0, command::WRITE, u64::MAX, 5, 3), b"abc".to_vec()].concat());
    assert_eq!(session.simple(), (0, u64::MAX));
    session.send(&request(0, command::READ, 2, 4, 5));
    assert_eq!(session.simple(), (0, 2));
    assert_eq!(&session.receive::<5>(), b"\x04abc\x08");
    session.send(&request(0, command::READ, 3, MIB as u64, 0));
    assert_eq!(session.simple(), (0, 3));
    session.send(&request(0, command::DISC, 4, 0, 0));
    session.closed();
    assert!(matches!(session.end(), Ok(true)));
}

#[test]
fn every_change_reaches_the_export_and_fua_flushes() {
    let mut session = Session::transmission(MIB, false, false);
    for (flags, kind, flushes) in [
        (0, command::WRITE, 0),
        (flag::FUA, command::WRITE, 1),
        (0, command::TRIM, 1),
        (flag::FUA, command::TRIM, 2),
        (0, command::WRITE_ZEROES, 2),
        (flag::NO_HOLE, command::WRITE_ZEROES, 2),
        (flag::FUA | flag::NO_HOLE, command::WRITE_ZEROES, 3),
        (0, command::CACHE, 3),
        (0, command::FLUSH, 4),
        (flag::FUA, command::FLUSH, 5),
    ] {
        let payload = if kind == command::WRITE { vec![9; 512] } else { vec![] };
        session.send(&[request(flags, kind, 1, 4096, 512), payload].concat());
        assert_eq!(session.simple(), (0, 1));
        assert_eq!(session.state().flushes, flushes, "{kind} {flags}");
    }
    let state = session.state();
    assert_eq!(state.trims, [(4096, 512); 2]);
    assert_eq!(state.zeroes, [(4096, 512, true), (4096, 512, false), (4096, 512, false)]);
    assert_eq!(state.content[4095..4609], [&[79][..], &[0; 512], &[90]].concat());
}

#[test]
fn what_makes_no_sense_is_refused_and_the_connection_kept() {
    let mut session = Session::transmission(MIB, false, false);
    let end = MIB as u64;
    let no_space = Errno::NoSpace as u32;
    for (flags, kind, offset, len, error) in [
        (0, 99, 0, 0, INVALID),
        (0, command::CACHE, 1, MIB as u32, INVALID),
        // RESIZE is not offered.
        (0, 8, 0, 512, INVALID),
        (0, command::READ, end, 1, INVALID),
        (0, command::READ, u64::MAX, u32::MAX, INVALID),
        (0, command::READ, 0, MAX_REQUEST + 1, INVALID),
        (flag::DF, command::READ, 0, 1, INVALID),
        (0x8000, command::READ, 0, 1, INVALID),
        (0, command::WRITE, end - 1, 2, no_space),
        (0, command::WRITE, u64::MAX, 2, no_space),
        (flag::DF, command::WRITE, 0, 1, INVALID),
        (0, command::WRITE_ZEROES, end, 1, no_space),
        (0, command::WRITE_ZEROES, 0, u32::MAX, no_space),
        (flag::FAST_ZERO, command::WRITE_ZEROES, 0, 512, Errno::NotSupported as u32),
        (flag::FAST_ZERO, command::WRITE, 0, 1, INVALID),
        (0, command::TRIM, 1, MIB as u32, INVALID),
        (flag::NO_HOLE, command::TRIM, 0, 1, INVALID),
        // No context was negotiated.
        (0, command::BLOCK_STATUS, 0, 512, INVALID),
    ] {
        let payload = if kind == command::WRITE { vec![1; len as usize] } else { vec![] };
        session.send(&[request(flags, kind, 3, offset, len), payload].concat());
        assert_eq!(session.simple(), (error, 3), "command {kind}, flags {flags}");
    }
    assert_eq!(session.state().content, bytes(0..MIB));
    assert_eq!(session.state().ended, 0);
    assert!(matches!(session.end(), Ok(true)));
}

#[test]
fn a_read_only_export_refuses_every_change() {
    for structured in [false, true] {
        let mut session = Session::transmission(4096, true, structured);
        for kind in [command::WRITE, command::TRIM, command::WRITE_ZEROES] {
            let payload = if kind == command::WRITE { vec![1; 512] } else { vec![] };
            session.send(&[request(0, kind, 3, 0, 512), payload].concat());
            match structured {
                true => assert_eq!(refused(session.chunk()).0, Errno::Perm as u32),
                false => assert_eq!(session.simple(), (Errno::Perm as u32, 3)),
            }
        }
        assert_eq!(session.state().ended, 0);
    }
}

#[test]
fn the_exports_errors_are_told_with_their_text() {
    let mut session = Session::transmission(MIB, false, true);
    let mut long = failure();
    long.text = "ä".repeat(5000);
    for (error, text) in [(failure(), failure().text), (long, "ä".repeat(2048))] {
        session.state().fail = Some(error);
        for kind in 0..8 {
            let payload = if kind == command::WRITE { vec![1; 512] } else { vec![] };
            if ![command::DISC, 5].contains(&kind) {
                session.send(&[request(0, kind, 3, 0, 512), payload].concat());
                assert_eq!(refused(session.chunk()), (Errno::Io as u32, text.clone()));
            }
        }
    }
    session.state().fail = None;
    session.send(&request(0, command::FLUSH, 4, 0, 0));
    assert_eq!(session.chunk(), done(4));
}

#[test]
fn zeros_are_left_out_of_long_reads() {
    let mut session = Session::transmission(MIB, false, true);
    let page = PAGE as usize;
    session.state().content[page..4 * page].fill(0);
    // Half a page of data, three of zeros, one and a half of data.
    session.send(&request(0, command::READ, 1, PAGE / 2, 5 * PAGE as u32));
    let place = |at: usize| (at as u64).to_be_bytes().to_vec();
    let data = |flags, at: usize, end: usize| {
        let payload = [place(at), bytes(at..end)].concat();
        Chunk { flags, kind: chunk::OFFSET_DATA, cookie: 1, payload }
    };
    let hole = |flags, at: usize, len: u32| {
        let payload = [place(at), len.to_be_bytes().to_vec()].concat();
        Chunk { flags, kind: chunk::OFFSET_HOLE, cookie: 1, payload }
    };
    assert_eq!(session.chunk(), data(0, page / 2, page));
    assert_eq!(session.chunk(), hole(0, page, 3 * PAGE as u32));
    assert_eq!(session.chunk(), data(chunk::DONE, 4 * page, 5 * page + page / 2));
    session.send(&request(0, command::READ, 1, PAGE, PAGE as u32));
    assert_eq!(session.chunk(), hole(chunk::DONE, page, PAGE as u32));
    // The reply has one piece if the client asked for that, and if looking for zeros is not worth it.
    for (flags, at, len) in [(flag::DF, page / 2, 5 * page), (0, page - 100, 200)] {
        session.send(&request(flags, command::READ, 1, at as u64, len as u32));
        let reply = session.chunk();
        assert_eq!((reply.flags, reply.kind), (chunk::DONE, chunk::OFFSET_DATA));
        assert_eq!(reply.payload[8..], session.state().content[at..at + len]);
    }
    session.send(&request(0, command::READ, 8, 0, 0));
    assert_eq!(session.chunk(), done(8));
    session.send(&request(0, command::READ, 9, MIB as u64, 1));
    assert_eq!(refused(session.chunk()).0, INVALID);
}

/// Lengths and states of a context's extents.
fn extents(reply: Chunk, context: u32) -> Vec<(u32, u32)> {
    assert_eq!(reply.kind, chunk::BLOCK_STATUS);
    assert_eq!(reply.payload[..4], context.to_be_bytes());
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    reply.payload[4..].chunks(8).map(|pair| (number(&pair[..4]), number(&pair[4..]))).collect()
}

#[test]
fn status_tells_each_context_apart() {
    let mut session = Session::transmission(MIB, false, true);
    let page = PAGE as u32;
    session.state().content[PAGE as usize * 2..PAGE as usize * 4].fill(0);
    session.send(&request(0, command::BLOCK_STATUS, 1, PAGE / 2, 5 * page));
    let allocation = session.chunk();
    assert_eq!(allocation.flags, 0);
    assert_eq!(extents(allocation, 0), [(page * 3 / 2, 0), (2 * page, 3), (page * 3 / 2, 0)]);
    let depth = session.chunk();
    assert_eq!(depth.flags, chunk::DONE);
    let depths = [(page / 2, 1), (page, 2), (2 * page, 0), (page, 1), (page / 2, 2)];
    assert_eq!(extents(depth, 1), depths);
    session.send(&request(flag::REQ_ONE, command::BLOCK_STATUS, 1, PAGE / 2, 5 * page));
    assert_eq!(extents(session.chunk(), 0), [(page / 2, 0)]);
    assert_eq!(extents(session.chunk(), 1), [(page / 2, 1)]);
    for (offset, len) in [(0, 0), (1, MIB as u32), (u64::MAX, 1)] {
        session.send(&request(0, command::BLOCK_STATUS, 1, offset, len));
        assert_eq!(refused(session.chunk()).0, INVALID);
    }
}

#[test]
fn replies_come_as_requests_end() {
    let mut session = Session::transmission(MIB, false, false);
    session.state().hold_reads = true;
    session.send(&request(0, command::READ, 1, 0, 10));
    session.send(&[request(0, command::WRITE, 2, 0, 10), vec![7; 10]].concat());
    assert_eq!(session.simple(), (0, 2));
    session.send(&request(0, command::FLUSH, 3, 0, 0));
    assert_eq!(session.simple(), (0, 3));
    assert_eq!(session.simple(), (0, 1));
    assert_eq!(session.receive_vec(10), [7; 10]);
}

#[test]
fn disconnecting_waits_for_requests_in_flight() {
    let mut session = Session::transmission(MIB, false, false);
    session.state().hold_reads = true;
    session.send(&request(0, command::READ, 1, 0, 10));
    session.wait_for("the read is inside", |state| state.inside == 1);
    session.send(&request(0, command::FLUSH, 2, 0, 0));
    session.send(&request(0, command::DISC, 3, 0, 0));
    assert_eq!(session.simple(), (0, 2));
    assert_eq!(session.simple(), (0, 1));
    assert_eq!(session.receive_vec(10), bytes(0..10));
    session.closed();
    assert!(matches!(session.end(), Ok(true)));
}

#[test]
fn a_client_that_does_not_read_holds_nothing_of_the_export() {
    let mut session = Session::transmission(MIB, false, true);
    for cookie in 0..200 {
        session.send(&request(flag::DF, command::READ, cookie, 0, MIB as u32));
    }
    let fits = MAX_IN_FLIGHT / MIB as u64;
    // The socket takes one reply or less, so no more than one is through.
    session.wait_for("all that fits was read", |state| state.ended >= fits);
    let state = session.state();
    assert!(state.ended <= fits + 1 && state.inside == 0, "{} ended", state.ended);
    drop(state);
    assert!(matches!(session.end(), Err(Disconnect::Io(_))));
}

#[test]
fn a_client_that_does_not_send_holds_nothing_of_the_export() {
    let mut session = Session::transmission(MIB, false, false);
    session.send(&[request(0, command::WRITE, 1, 0, 100), vec![7; 99]].concat());
    session.wait_read();
    assert_eq!(session.state().inside, 0);
    let state = session.state().content.clone();
    assert_eq!(state, bytes(0..MIB));
    assert!(matches!(session.end(), Err(Disconnect::Io(_))));
}

#[test]
fn what_leaves_no_way_on_ends_the_connection() {
    for bytes in [vec![0; 28], request(0, command::WRITE, 1, 0, MAX_REQUEST + 1)] {
        let mut session = Session::transmission(MIB, false, false);
        session.send(&bytes);
        session.closed();
        assert!(is_violation(&session.end()));
    }
}

#[test]
fn a_split_at_any_byte_changes_nothing() {
    let script = [
        request(0, command::READ, 1, 17, 30),
        [request(flag::FUA, command::WRITE, 2, 3, 20), vec![8; 20]].concat(),
        request(0, command::BLOCK_STATUS, 3, 0, 4096),
        request(0, 77, 4, 0, 0),
        request(0, command::DISC, 5, 0, 0),
    ]
    .concat();
    for at in 1..script.len() {
        let mut session = Session::transmission(4096, false, true);
        session.send(&script[..at]);
        session.wait_read();
        session.send(&script[at..]);
        let mut replies: Vec<Chunk> = (0..5).map(|_| session.chunk()).collect();
        session.closed();
        assert!(matches!(session.end(), Ok(true)));
        replies.sort_by_key(|reply| reply.cookie);
        let kinds = [chunk::OFFSET_DATA, chunk::NONE, chunk::BLOCK_STATUS, chunk::BLOCK_STATUS, chunk::ERROR];
        assert_eq!(replies.iter().map(|reply| reply.kind).collect::<Vec<_>>(), kinds);
        // The part that the write does not touch.
        assert_eq!(replies[0].payload[8 + 6..], bytes(23..47));
    }
}

/// Sends bytes and reads to the end, at once, so that neither side blocks; then the server must end.
fn endure(session: Session, bytes: Vec<u8>) {
    let mut reader = session.client.try_clone().unwrap();
    let mut writer = session.client.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        // The server may hang up first.
        let _ = std::io::Write::write_all(&mut writer, &bytes);
        let _ = writer.shutdown(Shutdown::Write);
    });
    reader.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut sink = vec![0; 1 << 16];
    loop {
        match reader.read(&mut sink) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(e) => panic!("the server went quiet: {e}"),
        }
    }
    writing.join().unwrap();
    assert!(session.state().most_inside <= MAX_REQUESTS);
    let _ = session.end();
}

fn any_request() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![4 => 0u64..70_000, 1 => any::<u64>()];
    let len = prop_oneof![6 => 0u32..70_000, 1 => any::<u32>(), 1 => Just(MAX_REQUEST)];
    let kind = prop_oneof![8 => 0u16..9, 1 => any::<u16>()];
    let flags = prop_oneof![3 => Just(0u16), 2 => 0u16..64, 1 => any::<u16>()];
    (flags, kind, any::<u64>(), number, len).prop_map(|(flags, kind, cookie, offset, len)| {
        let kind = if kind == command::DISC { command::FLUSH } else { kind };
        let payload = if kind == command::WRITE { len.min(70_000) as usize } else { 0 };
        [request(flags, kind, cookie, offset, len), vec![5; payload]].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_requests_are_endured(
        structured: bool,
        read_only: bool,
        requests in proptest::collection::vec(any_request(), 0..100),
    ) {
        endure(Session::transmission(100_000, read_only, structured), requests.concat());
    }

    #[test]
    fn arbitrary_bytes_are_endured(
        greeting in prop_oneof![3 => Just(3u32), 1 => any::<u32>()],
        options in proptest::collection::vec(
            (prop_oneof![5 => 0u32..13, 1 => any::<u32>()], proptest::collection::vec(any::<u8>(), 0..40)),
            0..10,
        ),
        tail in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = greeting.to_be_bytes().to_vec();
        bytes.extend(options.iter().flat_map(|(kind, data)| crate::testing::option(*kind, data)));
        bytes.extend(tail);
        endure(Session::start(100_000, false), bytes);
    }
}
