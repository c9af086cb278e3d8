//! Tests of the parsed loader listing, and of the libraries of this test program.

use super::*;

#[test]
fn a_listing_is_read() {
    let listing = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld.so (0x3)\n\tstatically linked\n";
    assert_eq!(parse(listing), BTreeSet::from(["/lib/libc.so.6".into(), "/lib64/ld.so".into()]));
}

#[test]
fn a_test_program_needs_the_loader() {
    let program = std::env::current_exe().expect("a path");
    let needed = needed_by(&program, None).expect("a listing");
    assert!(needed.contains(Path::new(LOADER)), "{needed:?}");
    assert!(needed_by(Path::new("/dev/null"), None).expect("no program").is_empty());
}
