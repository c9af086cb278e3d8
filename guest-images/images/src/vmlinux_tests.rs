//! Tests of payloads in made-up kernels.

use super::*;

/// A bzImage of three setup sectors, with `payload` 16 bytes after the start of its protected-mode code.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 4 * 512 + 16];
    file[0x1f1] = 3;
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend(payload);
    file.extend(b"what follows");
    file
}

#[test]
fn a_payload_is_found_without_the_size_behind_it() {
    let zstd = bzimage(b"\x28\xb5\x2f\xfddata\x01\x02\x03\x04");
    assert_eq!(payload(&zstd), Some((Compression::Zstd, &b"\x28\xb5\x2f\xfddata"[..])));
    let gzip = bzimage(b"\x1f\x8bdata\x01\x02\x03\x04");
    assert_eq!(payload(&gzip), Some((Compression::Gzip, &b"\x1f\x8bdata\x01\x02\x03\x04"[..])));
}

#[test]
fn what_is_no_whole_bzimage_has_none() {
    let whole = bzimage(b"\x28\xb5\x2f\xfddata1234");
    assert_eq!(payload(&whole[..whole.len() - 20]), None);
    assert_eq!(payload(b"\x7fELF"), None);
    assert_eq!(payload(&bzimage(b"unknown data")), None);
    let mut huge = whole;
    huge[0x24c..0x250].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(payload(&huge), None);
}

#[test]
fn what_was_compressed_comes_out_again() {
    // One stored block (RFC 1951) between gzip's header and trailer.
    let file = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x01\x05\0\xfa\xffhello\x86\xa6\x10\x36\x05\0\0\0";
    let compression = Compression::of(file).expect("recognized");
    assert_eq!(compression.decompress(file).expect("decompressed"), b"hello");
    let error = compression.decompress(&file[..20]).expect_err("cut off").to_string();
    assert!(error.contains("gzip failed"), "{error}");
}
