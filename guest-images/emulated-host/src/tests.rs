//! Tests of the emulated host that need no machine; `tests/session.rs` runs one.

use crate::*;

#[test]
fn a_command_carries_its_environment_and_the_emulated_hosts() {
    let mut command = Invocation::new(vec!["true".into()]).expect("a command");
    command.env = vec![("A".into(), "b=c".into())];
    let frame = command.to_frame();
    assert_eq!(frame.argv, [b"true"]);
    assert_eq!(frame.env[0], b"A=b=c");
    assert!(frame.env.contains(&b"MILLRACE_EMULATED_HOST=1".to_vec()));
    assert_eq!(frames::Command::from_bytes(&frame.to_bytes()), Some(frame));
}

#[test]
fn a_scratch_disk_is_sparse_and_formatted() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    let disk = root::disk(1 << 30, &[]).expect("a disk");
    let mut magic = [0; 2];
    disk.read_exact_at(&mut magic, 1024 + 56).expect("a super block");
    assert_eq!(magic, [0x53, 0xef]);
    assert!(disk.metadata().expect("metadata").blocks() * 512 < 64 << 20);
}
