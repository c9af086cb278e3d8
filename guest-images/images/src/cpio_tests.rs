//! Tests of the archive against a reader written from the format's description, and against `cpio` if it
//! is installed.

use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

fn example() -> Vec<u8> {
    let mut archive = Archive::new();
    archive.file("/init", 0o755, b"#!");
    archive.file("lib/modules/a.ko", 0o644, b"12345");
    archive.file("lib/modules/b.ko", 0o644, b"");
    archive.symlink("/lib64", "lib");
    archive.directory("lib/modules");
    archive.device("dev/null", 0o666, (1, 3));
    archive.finish()
}

/// Name, mode and content of every entry up to the trailer.
fn read(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
    let mut at = 0;
    let mut entries = Vec::new();
    loop {
        assert_eq!(&bytes[at..at + 6], MAGIC.as_bytes());
        let number = |index: usize| {
            let start = at + 6 + index * 8;
            let digits = std::str::from_utf8(&bytes[start..start + 8]).expect("digits");
            usize::from_str_radix(digits, 16).expect("digits")
        };
        let (mode, size, name_size) = (number(1), number(6), number(11));
        let name = &bytes[at + 110..at + 110 + name_size - 1];
        let name = String::from_utf8(name.to_vec()).expect("a name");
        let start = (at + 110 + name_size).next_multiple_of(4);
        at = (start + size).next_multiple_of(4);
        if name == TRAILER {
            assert_eq!(at, bytes.len());
            return entries;
        }
        entries.push((name, u32::try_from(mode).expect("mode"), bytes[start..start + size].to_vec()));
    }
}

#[test]
fn entries_are_where_the_format_says() {
    let entries = read(&example());
    let names: Vec<_> = entries.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(
        names,
        ["init", "lib", "lib/modules", "lib/modules/a.ko", "lib/modules/b.ko", "lib64", "dev", "dev/null"]
    );
    assert_eq!(entries[0], ("init".to_owned(), 0o100_755, b"#!".to_vec()));
    assert_eq!(entries[1].1, 0o040_755);
    assert_eq!(entries[3].2, b"12345");
    assert_eq!(entries[5], ("lib64".to_owned(), 0o120_777, b"lib".to_vec()));
}

#[test]
fn equal_content_gives_equal_bytes() {
    assert_eq!(example(), example());
}

#[test]
fn cpio_lists_it() {
    let child = Command::new("cpio")
        .arg("-t")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("no cpio on this host");
        return;
    };
    child.stdin.take().expect("piped").write_all(&example()).expect("write");
    let output = child.wait_with_output().expect("output");
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "init\nlib\nlib/modules\nlib/modules/a.ko\nlib/modules/b.ko\nlib64\ndev\ndev/null\n"
    );
}
