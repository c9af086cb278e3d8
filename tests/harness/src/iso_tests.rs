//! Tests that read the image back by hand, as a kernel does: descriptor, directory, file.

use super::*;

fn le32(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

#[test]
fn files_are_found_through_the_descriptor() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("image.iso");
    let long = vec![7; 3 * BLOCK + 1];
    write(&path, &[("A.TXT", b"first"), ("LONG.BIN", &long), ("B.TXT", b"third")]).expect("an image");
    let image = std::fs::read(path).expect("the image");
    let descriptor = &image[16 * BLOCK..17 * BLOCK];
    assert_eq!(&descriptor[..7], b"\x01CD001\x01");
    assert_eq!(le32(descriptor, 80) * BLOCK, image.len());
    assert_eq!(le32(descriptor, 84), (image.len() / BLOCK).swap_bytes() >> 32);
    let mut at = le32(descriptor, 156 + 2) * BLOCK;
    let mut found = Vec::new();
    while image[at] != 0 {
        let record = &image[at..at + usize::from(image[at])];
        let (start, length) = (le32(record, 2) * BLOCK, le32(record, 10));
        found.push((&record[33..33 + usize::from(record[32])], &image[start..start + length]));
        at += record.len();
    }
    assert_eq!(found[2], (&b"A.TXT;1"[..], &b"first"[..]));
    assert_eq!(found[3], (&b"LONG.BIN;1"[..], &long[..]));
    assert_eq!(found[4], (&b"B.TXT;1"[..], &b"third"[..]));
    assert_eq!(found.len(), 5);
}

#[test]
fn too_many_files_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = [("FILENAME.TXT", &b""[..]); 50];
    assert!(write(&folder.path().join("image.iso"), &files).is_err());
}
