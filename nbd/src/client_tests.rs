//! The client against our own server, and against servers that lie.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::proto::{self, chunk, info, option, rep};
use crate::testing::{PAGE, PATIENCE, Session};

const MIB: usize = 1 << 20;

/// Runs a future with a client of the export "disk" on the other end of `socket`.
fn with_client<T: 'static, F: Future<Output = T> + 'static>(
    socket: UnixStream,
    patience: Duration,
    work: impl FnOnce(Client) -> F + 'static,
) -> Result<T, NegotiateError> {
    executor::Executor::new().unwrap().block_on(async move {
        let connection = Connection::new(socket)?;
        let offer = negotiate(&connection, "disk").await?;
        Ok(work(Client::new(&connection, offer, patience)?).await)
    })
}

#[test]
fn what_one_writes_the_other_has() {
    let session = Session::start(MIB, false);
    let socket = session.client.try_clone().unwrap();
    let work = |client: Client| async move {
        assert_eq!(client.terms().size, MIB as u64);
        assert!(client.terms().can_flush() && client.terms().has_status() && !client.terms().is_read_only());
        client.write(1000, Buf::from_bytes(&[7; 70_000])).await.unwrap();
        client.write_zeroes(PAGE * 4, PAGE as u32 * 2, true).await.unwrap();
        client.flush().await.unwrap();
        let buf = Buf::from_bytes(&[1; 600_000]);
        client.read(500, buf.clone()).await.unwrap();
        let bytes = buf.to_vec();
        assert!(bytes[500..70_500].iter().all(|byte| *byte == 7));
        assert_eq!(bytes[499], (999 % 251) as u8);
        let from = PAGE as usize * 4 - 500;
        assert!(bytes[from..from + 2 * PAGE as usize].iter().all(|byte| *byte == 0));
        let page = PAGE as u32;
        let runs = client.block_status(0, 8 * page).await.unwrap();
        let run = |len, zero| Status { len, zero };
        assert_eq!(runs, [run(4 * page, false), run(2 * page, true), run(2 * page, false)]);
        let outside = client.read(MIB as u64, Buf::new(1)).await.unwrap_err();
        assert!(matches!(outside, RequestError::Refused(e) if e.text.contains("outside of the export")));
        let reads = (0..200u64).map(|at| {
            let (client, buf) = (&client, Buf::new(512));
            async move {
                client.read(MIB as u64 / 2 + at * 512, buf.clone()).await.unwrap();
                assert_eq!(buf.to_vec()[0], ((MIB as u64 / 2 + at * 512) % 251) as u8);
            }
        });
        futures_util::future::join_all(reads).await;
    };
    with_client(socket, PATIENCE, work).unwrap();
    assert!(matches!(session.end(), Ok(true)));
}

#[test]
fn an_end_is_told_to_whoever_waits() {
    let session = Session::start(MIB, false);
    session.state().hold_reads = true;
    let socket = session.client.try_clone().unwrap();
    let work = |client: Client| async move {
        let ended = client.ended();
        let error = client.read(0, Buf::new(512)).await.unwrap_err();
        assert_eq!(error, RequestError::Disconnected("the server did not answer for 1 s".into()));
        assert_eq!(&*ended.await, "the server did not answer for 1 s");
        assert_eq!(client.read(0, Buf::new(512)).await.unwrap_err(), error);
    };
    with_client(socket, Duration::from_secs(1), work).unwrap();
    session.state().hold_reads = false;
    drop(session);
}

fn answer(to: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = proto::OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    bytes.extend([to, kind, data.len() as u32].map(u32::to_be_bytes).concat());
    bytes.extend(data);
    bytes
}

/// A whole good handshake with structured replies and block status.
fn handshake() -> Vec<u8> {
    let greeting = b"NBDMAGICIHAVEOPT\0\x03".to_vec();
    let context = [&1u32.to_be_bytes()[..], proto::CONTEXTS[0].as_bytes()].concat();
    let export = [&info::EXPORT.to_be_bytes()[..], &(MIB as u64).to_be_bytes(), &[0, 1]].concat();
    [
        greeting,
        answer(option::STRUCTURED_REPLY, rep::ACK, &[]),
        answer(option::SET_META_CONTEXT, rep::META_CONTEXT, &context),
        answer(option::SET_META_CONTEXT, rep::ACK, &[]),
        answer(option::GO, rep::INFO, &export),
        answer(option::GO, rep::ACK, &[]),
    ]
    .concat()
}

fn piece(flags: u16, kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = proto::STRUCTURED_MAGIC.to_be_bytes().to_vec();
    bytes.extend([flags, kind].map(u16::to_be_bytes).concat());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A read of 512 bytes at 1024 and a block status, from a server that sends `bytes` and nothing else.
fn against(bytes: Vec<u8>) -> Result<[Result<(), RequestError>; 2], NegotiateError> {
    let (socket, mut server) = UnixStream::pair().unwrap();
    let serving = std::thread::spawn(move || {
        let _ = server.write_all(&bytes);
        let _ = server.shutdown(std::net::Shutdown::Write);
        let _ = server.read_to_end(&mut Vec::new());
    });
    let work = |client: Client| async move {
        let read = client.read(1024, Buf::new(512));
        let status = async { client.block_status(0, 65_536).await.map(drop) };
        let (read, status) = futures_util::future::join(read, status).await;
        [read, status]
    };
    let result = with_client(socket, PATIENCE, work);
    serving.join().unwrap();
    result
}

#[test]
fn a_server_that_breaks_the_protocol_is_hung_up_on() {
    let offset = 1024u64.to_be_bytes();
    let data = |at: u64, len: usize| [&at.to_be_bytes()[..], &vec![5; len]].concat();
    let hole = |len: u32| [&offset[..], &len.to_be_bytes()].concat();
    let (done, kind) = (chunk::DONE, chunk::OFFSET_DATA);
    let simple = [&proto::SIMPLE_MAGIC.to_be_bytes()[..], &[0; 12], &[0; 512]].concat();
    for (bytes, complaint) in [
        (vec![7; 64], "not a reply"),
        (simple, "a simple reply to a read"),
        (piece(done, kind, 9, &data(1024, 512)), "was not sent"),
        (piece(done, kind, 0, &data(1024, 511)), "left a part"),
        (piece(done, kind, 0, &data(1024, 513)), "outside"),
        (piece(done, kind, 0, &data(1023, 512)), "outside"),
        (piece(done, kind, 0, &data(u64::MAX, 1)), "outside"),
        (piece(done, kind, 0, &[0; 8]), "does not belong"),
        (piece(done, kind, 1, &data(0, 8)), "does not belong"),
        (piece(done, chunk::OFFSET_HOLE, 0, &hole(0)), "outside"),
        (piece(done, chunk::OFFSET_HOLE, 0, &hole(u32::MAX)), "outside"),
        (piece(done, chunk::NONE, 0, &[]), "left a part"),
        (piece(0, chunk::NONE, 0, &[]), "does not belong"),
        ([piece(0, kind, 0, &data(1030, 10)), piece(done, kind, 0, &data(1024, 512))].concat(), "twice"),
        ([piece(0, kind, 0, &data(1024, 9)), piece(done, kind, 0, &data(1032, 504))].concat(), "twice"),
        ((0..18).flat_map(|at| piece(0, kind, 0, &data(1024 + at, 1))).collect(), "too many pieces"),
        (piece(done, chunk::BLOCK_STATUS, 1, &[0; 11]), "wrong length"),
        (piece(done, chunk::BLOCK_STATUS, 1, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), "no bytes"),
        (piece(done, chunk::BLOCK_STATUS, 1, &[0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0]), "not asked for"),
        (piece(done, chunk::NONE, 1, &[]), "no block status"),
        (piece(done, chunk::ERROR, 0, &[0; 5]), "too short"),
        (piece(done, chunk::ERROR, 0, &[0, 0, 0, 5, 0, 9, 1]), "cut off"),
        (piece(done, chunk::ERROR, 0, &[0; 9000]), "too long"),
        (vec![], "the server hung up"),
    ] {
        let results = against([handshake(), bytes].concat()).unwrap();
        for result in results {
            match result {
                Err(RequestError::Disconnected(why)) => {
                    assert!(why.contains(complaint), "{why}: {complaint}")
                }
                other => panic!("{other:?}: {complaint}"),
            }
        }
    }
}

#[test]
fn good_replies_in_any_pieces_are_taken() {
    let data = |at: u64, len: usize| [&at.to_be_bytes()[..], &vec![5; len]].concat();
    let status = [1u32, 65_536 * 2, 3].map(u32::to_be_bytes).concat();
    let bytes = [
        handshake(),
        piece(0, chunk::OFFSET_DATA, 0, &data(1500, 36)),
        piece(chunk::DONE, chunk::BLOCK_STATUS, 1, &status),
        piece(0, chunk::OFFSET_DATA, 0, &data(1024, 400)),
        piece(0, chunk::OFFSET_HOLE, 0, &data(1424, 0).into_iter().chain([0, 0, 0, 76]).collect::<Vec<_>>()),
        piece(chunk::DONE, chunk::NONE, 0, &[]),
    ];
    assert_eq!(against(bytes.concat()).unwrap(), [Ok(()), Ok(())]);
    // An error fails only its own request.
    let error = [&[0, 0, 0, 5, 0, 6][..], b"f\x1bire!"].concat();
    let bytes = [
        handshake(),
        piece(chunk::DONE, chunk::BLOCK_STATUS, 1, &status),
        piece(chunk::DONE, chunk::ERROR, 0, &error),
    ];
    let refused = Error::new(Errno::Io, "the server answers: Input/output error: f ire!");
    assert_eq!(against(bytes.concat()).unwrap(), [Err(RequestError::Refused(refused)), Ok(())]);
}

#[test]
fn a_handshake_that_fails_says_why() {
    let greeting = b"NBDMAGICIHAVEOPT\0\x03".to_vec();
    let unsupported = answer(option::STRUCTURED_REPLY, rep::ERR_UNSUP, &[]);
    let export = |size: u64| [&info::EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &[0, 1]].concat();
    let blocks = [&info::BLOCK_SIZE.to_be_bytes()[..], &[0, 0, 3, 0, 0, 0, 16, 0, 0, 2, 0, 0]].concat();
    let go = |answers: &[Vec<u8>]| [&greeting[..], &unsupported, &answers.concat()].concat();
    let many = vec![answer(option::GO, rep::INFO, &export(1)); 65];
    for (bytes, complaint) in [
        (vec![b'x'; 18], "is not an NBD server"),
        (b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\0".to_vec(), "oldstyle"),
        (b"NBDMAGICIHAVEOPT\0\0".to_vec(), "fixed newstyle"),
        ([&greeting[..], &[9; 20]].concat(), "not an answer"),
        ([&greeting[..], &answer(option::GO, rep::ACK, &[])].concat(), "answer to nothing"),
        (go(&[answer(option::GO, rep::ERR_UNKNOWN, b"x")]), "no export 'disk'"),
        (go(&[answer(option::GO, rep::ERR_TLS_REQD, b"x")]), "TLS is required"),
        (go(&[answer(option::GO, rep::ERR_INVALID, b"no\nway")]), "the server answers: no way"),
        (go(&[answer(option::GO, rep::ACK, &[])]), "no size"),
        (go(&[answer(option::GO, rep::INFO, &blocks)]), "make no sense"),
        (
            go(&[answer(option::GO, rep::INFO, &export(u64::MAX)), answer(option::GO, rep::ACK, &[])]),
            "larger",
        ),
        (go(&many), "too many answers"),
    ] {
        let error = against(bytes).unwrap_err().to_string();
        assert!(error.contains(complaint), "{error}: {complaint}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_answers_are_endured(
        keep in 0usize..300,
        pieces in proptest::collection::vec(
            (0u16..2, prop_oneof![0u16..7, 0x8000u16..0x8003, any::<u16>()], 0u64..3,
             proptest::collection::vec(any::<u8>(), 0..40)),
            0..20,
        ),
        tail in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut bytes = handshake();
        if keep < bytes.len() {
            bytes.truncate(keep);
        }
        bytes.extend(pieces.iter().flat_map(|(flags, kind, cookie, data)| piece(*flags, *kind, *cookie, data)));
        bytes.extend(tail);
        let _ = against(bytes);
    }
}
