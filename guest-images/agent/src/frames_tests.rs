//! Tests that frames and commands are read as they were written, and that damaged ones are refused.

use super::*;

#[test]
fn a_frame_survives() {
    let mut stream = Vec::new();
    send(&mut stream, Kind::Stdout, b"\0\xff\n").expect("a vector takes all");
    send(&mut stream, Kind::Exit, &3i32.to_le_bytes()).expect("a vector takes all");
    let mut stream = stream.as_slice();
    assert_eq!(receive(&mut stream).expect("first"), (Kind::Stdout, b"\0\xff\n".to_vec()));
    assert_eq!(receive(&mut stream).expect("second"), (Kind::Exit, vec![3, 0, 0, 0]));
    assert_eq!(receive(&mut stream).expect_err("end").kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn damaged_frames_are_refused() {
    for bytes in [&[9, 0, 0, 0, 0][..], &[2, 255, 255, 255, 255], &[2, 4, 0, 0, 0, 1]] {
        assert!(receive(&mut &bytes[..]).is_err(), "{bytes:?}");
    }
}

#[test]
fn a_command_survives() {
    let command = Command {
        cwd: b"/a b".to_vec(),
        argv: vec![b"p".to_vec(), vec![], b"\xff".to_vec()],
        env: vec![b"A=".to_vec()],
        ports: vec![5901, 8080],
    };
    assert_eq!(Command::from_bytes(&command.to_bytes()), Some(command));
    for bytes in [&b""[..], b"1\x000\0/\0", b"x\x000\0/\0p\0", b"2\x000\0/\0p\0", b"1\x002\x001\0/\0p\0"] {
        assert_eq!(Command::from_bytes(bytes), None);
    }
}
