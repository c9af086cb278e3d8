use super::*;
use crate::{Requests, Spec};

#[test]
fn what_is_written_is_read_again() {
    let spec = Spec { trim: 0.1, ..Spec::preset("oltp").unwrap() };
    let mut ops: Vec<Op> = Requests::new(&spec, 1 << 30, 9).unwrap().take(500).collect();
    let text = write(&ops, Form::Text, "").unwrap();
    assert_eq!(Form::of(&text), Form::Text);
    assert_eq!(read(&text, Form::Text), Ok(ops.clone()));
    let iolog = write(&ops, Form::Iolog, "/dev/vda").unwrap();
    assert_eq!(Form::of(&iolog), Form::Iolog);
    ops.iter_mut().for_each(|op| op.at -= op.at % 1000);
    assert_eq!(read(&iolog, Form::Iolog), Ok(ops));
}

#[test]
fn an_iolog_of_version_2() {
    let text = "fio version 2 iolog\n/dev/vda add\n/dev/vda open\n/dev/vda read 0 4096\n\
                /dev/vda wait 250 0\n/dev/vda write 8192 512\n/dev/vda datasync 0 0\n/dev/vda close\n";
    let expected =
        [(0, Kind::Read, 0, 4096), (250_000, Kind::Write, 8192, 512), (250_000, Kind::Flush, 0, 0)];
    let expected = expected.map(|(at, kind, offset, len)| Op { at, kind, offset, len });
    assert_eq!(read(text, Form::Iolog).unwrap(), expected);
}

#[test]
fn the_output_of_blkparse() {
    let text = "  8,0    3        1     0.000000000   697  Q   W 223490 + 8 [kjournald]\n\
                  8,0    3        2     0.000001829   697  G   W 223490 + 8 [kjournald]\n\
                  8,0    1        3     1.500000000   698  Q FWS [fsync]\n\
                  8,0    1        4     2.000000001   698  Q  RA 16 + 256 [cat]\n\
                  8,0    1        5     3.0           698  Q   D 0 + 2048 [fstrim]\n\
                CPU0 (sda):\n Reads Queued:  1,  128KiB\n";
    let expected = [
        (0, Kind::Write, 223_490 * 512, 4096),
        (1_500_000_000, Kind::Flush, 0, 0),
        (2_000_000_001, Kind::Read, 8192, 131_072),
        (3_000_000_000, Kind::Trim, 0, 1 << 20),
    ];
    let expected = expected.map(|(at, kind, offset, len)| Op { at, kind, offset, len });
    assert_eq!(Form::of(text), Form::Blkparse);
    assert_eq!(read(text, Form::Blkparse).unwrap(), expected);
}

#[test]
fn errors_name_the_line() {
    let line = |text, form| read(text, form).unwrap_err().line;
    assert_eq!(line("# ours\n0 read 0 4096\n0 raed 0 1\n", Form::Text), 3);
    assert_eq!(line("0 read 18446744073709551615 4096\n", Form::Text), 1);
    assert_eq!(line("0 read 0 0\n", Form::Text), 1);
    assert_eq!(line("fio version 2 iolog\na add\nb add\n", Form::Iolog), 3);
    assert_eq!(line("fio version 3 iolog\nx a add\n", Form::Iolog), 2);
    assert_eq!(line("fio version 1 iolog\n", Form::Iolog), 1);
    assert_eq!(line("8,0 3 1 x 697 Q W 8 + 8\n", Form::Blkparse), 1);
}

#[test]
fn an_iolog_of_version_3_has_microseconds() {
    let text = "fio version 3 iolog\n0 f add\n0 f open\n1000 f read 0 4096\n1001 f close\n";
    let expected = Op { at: 1_000_000, kind: Kind::Read, offset: 0, len: 4096 };
    assert_eq!(read(text, Form::Iolog), Ok(vec![expected]));
    let text = "fio version 3 iolog\n0 f add\n0 f open\n5 f wait 10 0\n";
    assert_eq!(read(text, Form::Iolog).unwrap_err().line, 4);
}

#[test]
fn waits_of_version_2_add_up() {
    let text =
        "fio version 2 iolog\nf add\nf open\nf wait 250 0\nf read 0 4096\nf wait 1000 0\nf read 0 4096\n";
    let times: Vec<u64> = read(text, Form::Iolog).unwrap().iter().map(|op| op.at).collect();
    assert_eq!(times, [250_000, 1_250_000]);
}
