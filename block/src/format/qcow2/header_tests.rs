//! Headers survive a round trip, and no byte of one makes the parser panic or ask for the impossible.

use super::*;

fn header() -> Header {
    Header {
        version: 3,
        backing: Some(Backing { name: "base.img".into(), format: Some("raw".into()) }),
        cluster_bits: 16,
        size: 10 << 30,
        l1_entries: 40,
        l1_offset: 0x10000,
        refcount_table_offset: 0x20000,
        refcount_table_clusters: 1,
        snapshots: 0,
        snapshots_offset: 0,
        bitmaps: None,
        incompatible: incompatible::EXTENDED_L2,
        compatible: 0,
        autoclear: 0,
        refcount_order: 4,
        zstd: false,
    }
}

const FILE_LEN: u64 = 0x40000;

#[test]
fn a_header_is_read_as_it_was_written() {
    for backing in [None, header().backing, Some(Backing { name: "x".repeat(1023), format: None })] {
        for (version, incompatible) in [(3, incompatible::EXTENDED_L2), (3, 0), (2, 0)] {
            let header = Header { version, incompatible, backing: backing.clone(), ..header() };
            let header = Header { l1_entries: 160, ..header };
            assert_eq!(Header::parse(&header.to_bytes(), FILE_LEN).unwrap(), header);
        }
    }
}

#[test]
fn small_clusters_do_without_the_names_of_features() {
    let header = Header { cluster_bits: 9, size: 512, l1_entries: 1, incompatible: 0, ..header() };
    assert!(header.to_bytes().len() <= 512);
    assert_eq!(Header::parse(&header.to_bytes(), FILE_LEN).unwrap(), header);
}

#[test]
fn what_is_wrong_is_said() {
    let put = |at: usize, value: &[u8]| {
        let mut bytes = header().to_bytes();
        bytes[at..at + value.len()].copy_from_slice(value);
        Header::parse(&bytes, FILE_LEN).unwrap_err()
    };
    let cases: [(usize, &[u8], ErrorKind, &str); 14] = [
        (0, b"PNG!", ErrorKind::Invalid, "not a qcow2"),
        (4, &[0, 0, 0, 9], ErrorKind::Unsupported, "version 9"),
        (16, &[0, 0, 4, 0], ErrorKind::Corrupt, "backing file name"),
        (8, &[0xff; 8], ErrorKind::Corrupt, "backing file name"),
        (20, &[0, 0, 0, 8], ErrorKind::Corrupt, "cluster_bits 8"),
        (20, &[0, 0, 0, 63], ErrorKind::Corrupt, "cluster_bits 63"),
        (24, &[0xff; 8], ErrorKind::Corrupt, "size"),
        (32, &[0, 0, 0, 1], ErrorKind::Unsupported, "encrypted"),
        (36, &[0xff; 4], ErrorKind::Corrupt, "L1 table"),
        (40, &[0xff; 8], ErrorKind::Corrupt, "L1 table"),
        (48, &[0, 0, 0, 0, 0, 0, 2, 1], ErrorKind::Corrupt, "refcount table"),
        (56, &[0xff; 4], ErrorKind::Corrupt, "refcount table"),
        (72, &[0x80, 0, 0, 0, 0, 0, 0, 0], ErrorKind::Unsupported, "feature bit 63"),
        (96, &[0, 0, 0, 7], ErrorKind::Corrupt, "refcount_order"),
    ];
    for (at, value, kind, words) in cases {
        let error = put(at, value);
        assert!(error.kind() == kind && error.to_string().contains(words), "byte {at}: {error}");
    }
    let named = put(72, &[0, 0, 0, 0, 0, 0, 0, 4]);
    assert!(named.to_string().contains("external"), "{named}");
}

#[test]
fn headers_may_be_longer_than_what_we_know() {
    let long = |len: u32| {
        let mut bytes = Header { backing: None, incompatible: 0, l1_entries: 160, ..header() }.to_bytes();
        bytes.resize(4096, 0);
        let rest = bytes[112..].to_vec();
        bytes[100..104].copy_from_slice(&len.to_be_bytes());
        bytes.truncate(112);
        bytes.resize((len as usize).max(112), 0);
        bytes.extend_from_slice(&rest);
        Header::parse(&bytes, FILE_LEN)
    };
    for len in [104, 112, 120, 1024] {
        assert_eq!(long(len).unwrap().size, 10 << 30, "{len}");
    }
    for len in [72, 103, 105, 108, 113, (64 << 10) + 8] {
        let error = long(len).unwrap_err();
        assert!(error.to_string().contains("header length"), "{len}: {error}");
    }
}

#[test]
fn what_an_image_names_is_one_line_of_text() {
    let parse = |name: &str, format: &str| {
        let backing = Some(Backing { name: name.into(), format: Some(format.into()) });
        Header::parse(&Header { backing, ..header() }.to_bytes(), FILE_LEN)
    };
    assert!(parse("base\u{e9}.img", "raw").is_ok());
    for (name, format) in [("a\nb", "raw"), ("a\0b", "raw"), ("a", "r\naw"), ("a", "a format that is long")] {
        let error = parse(name, format).unwrap_err();
        assert!(error.kind() == ErrorKind::Corrupt && !error.to_string().contains('\n'), "{error}");
    }
    // The name of an unknown feature, from the image's own table.
    let mut bytes = header().to_bytes();
    let at = bytes.windows(9).position(|window| window == b"dirty bit").unwrap();
    bytes[at - 1] = 40;
    bytes[at..at + 9].copy_from_slice(b"odd\nthing");
    bytes[72 + 2] |= 1;
    let error = Header::parse(&bytes, FILE_LEN).unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().ends_with(": oddthing"), "{error}");
}

#[test]
fn no_change_of_a_byte_and_no_cut_panics() {
    let whole = header().to_bytes();
    for len in 0..whole.len() {
        let _ = Header::parse(&whole[..len], len as u64);
    }
    for at in 0..whole.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            if let Ok(header) = Header::parse(&bytes, FILE_LEN) {
                assert!(u64::from(header.l1_entries) * 8 <= MAX_L1_BYTES);
                let table = u64::from(header.refcount_table_clusters) << header.cluster_bits;
                assert!(table <= MAX_REFCOUNT_TABLE_BYTES);
            }
        }
    }
}
