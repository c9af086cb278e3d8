//! Frames out of bytes that come in pieces of any size.

use super::*;

fn framed(frames: &[&[u8]]) -> Vec<u8> {
    frames.iter().flat_map(|frame| [&(frame.len() as u32).to_be_bytes()[..], frame].concat()).collect()
}

/// Returns all frames of a stream that comes in pieces of `piece` bytes.
fn frames(sent: &[u8], piece: usize) -> io::Result<Vec<Vec<u8>>> {
    let (ours, mut theirs) = UnixStream::pair()?;
    let (mut bytes, mut filled, mut frames) = (vec![0; BUFFER], 0..0, Vec::new());
    for piece in sent.chunks(piece) {
        theirs.write_all(piece)?;
        read(&ours, &mut bytes, &mut filled)?;
        while let Some(frame) = next(&bytes, &mut filled)? {
            frames.push(bytes[frame].to_vec());
        }
    }
    Ok(frames)
}

#[test]
fn pieces_of_any_length_give_the_same_frames() {
    let long = vec![7; MOST_FRAME];
    let sent: [&[u8]; 5] = [b"first", b"", &long, b"x", b"last"];
    for piece in [1, 3, 4, 5, 1000, 50_000, 100_000] {
        let found = frames(&framed(&sent), piece).unwrap();
        assert_eq!(found, sent, "in pieces of {piece}");
    }
}

#[test]
fn what_is_not_whole_is_no_frame() {
    let bytes = framed(&[b"first", b"second"]);
    for end in 0..bytes.len() {
        let expected = usize::from(end >= 9);
        assert_eq!(frames(&bytes[..end], 4096).unwrap().len(), expected, "{end} bytes");
    }
}

#[test]
fn longer_than_the_longest_is_out_of_step() {
    for length in [MOST_FRAME as u32 + 1, u32::MAX] {
        let error = frames(&length.to_be_bytes(), 4).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains(&length.to_string()), "{error}");
    }
}

#[test]
fn the_other_sides_end_is_an_error() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let error = read(&ours, &mut [0; BUFFER], &mut (0..0)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(write(&ours, b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}
