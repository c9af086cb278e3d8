//! Tests of what all threads of a program give up. Each runs in a process of its own, because it cannot
//! be undone.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::mpsc;

use libc::*;

use super::{errno, in_process};
use crate::program::NEVER;
use crate::{Mode, Role, confine, confine_program, gain_none};

const NAME: &str = "SANDBOX_TEST_PROGRAM";

/// Runs `inside` in a process of its own; `test` is the name of the test that calls this.
fn alone(test: &str, inside: impl FnOnce()) {
    if std::env::var(NAME).is_ok() {
        return inside();
    }
    let (status, said) = in_process(&format!("tests::program::{test}"), NAME, "1");
    assert!(status.success(), "{status}: {said}");
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
fn what_no_thread_needs_is_gone_from_all() {
    alone("what_no_thread_needs_is_gone_from_all", || {
        // A thread created before the confinement.
        let (ask, asked) = mpsc::channel();
        let before = std::thread::spawn(move || {
            let () = asked.recv().unwrap();
            errno(SYS_execve, &[])
        });
        assert_eq!(errno(SYS_execve, &[]), EFAULT);
        let lacks = confine_program(Mode::On);
        assert!(lacks.is_nothing(), "this kernel has {lacks}");
        ask.send(()).unwrap();
        assert_eq!(before.join().unwrap(), EPERM);
        for call in NEVER {
            assert_eq!(errno(*call, &[]), EPERM, "call {call}");
        }
        let made = Command::new("/bin/true").status().unwrap_err();
        assert_eq!(made.kind(), ErrorKind::PermissionDenied);
        assert_eq!(errno(SYS_clone3, &[]), ENOSYS);
        for flags in [SIGCHLD, SIGCHLD | CLONE_VM | CLONE_VFORK, CLONE_THREAD | CLONE_NEWUTS] {
            assert_eq!(errno(SYS_clone, &[flags as usize]), EPERM, "{flags:x}");
        }
        let (parent, own) = (std::os::unix::process::parent_id() as usize, std::process::id() as usize);
        for call in [SYS_kill, SYS_tgkill, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo] {
            assert_eq!(errno(call, &[parent, 0, 0]), EPERM, "call {call}");
        }
        assert_eq!(errno(SYS_kill, &[own, 0]), 0);
        // -1 addresses every process that this one may signal.
        assert_eq!(errno(SYS_kill, &[usize::MAX, 0]), EPERM);
        for family in [AF_PACKET, AF_ALG, AF_VSOCK, AF_BLUETOOTH] {
            assert_eq!(
                errno(SYS_socket, &[family as usize, SOCK_DGRAM as usize, 0]),
                EPERM,
                "family {family}"
            );
        }
        for ioctl in [TIOCSTI, TIOCLINUX, 0x8901, 0x8902] {
            // The kernel examines only the lower 32 bits.
            assert_eq!(errno(SYS_ioctl, &[0, ioctl as usize | 1 << 32]), EPERM, "ioctl {ioctl:x}");
        }
        for command in [F_SETOWN, F_SETLEASE, F_NOTIFY, 10, 15] {
            assert_eq!(errno(SYS_fcntl, &[0, command as usize, parent]), EPERM, "command {command}");
        }
        assert_eq!(errno(SYS_prlimit64, &[parent, RLIMIT_NOFILE as usize]), EPERM);
        // Calls of the x32 ABI, which many kernels lack.
        for call in [SYS_getpid, 520, 521] {
            assert_eq!(errno(0x4000_0000 | call, &[]), ENOSYS, "x32 {call}");
        }
    });
}

#[test]
fn what_the_program_does_still_works() {
    alone("what_the_program_does_still_works", || {
        assert!(confine_program(Mode::Strict).is_nothing());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (unix, _peer) = UnixStream::pair().unwrap();
        unix.set_nonblocking(true).unwrap();
        // Looks addresses up through netlink, and in files.
        let _found = ("localhost", 0).to_socket_addrs();
        assert!(File::open("/proc/self/status").is_ok());
        assert_eq!(errno(SYS_prlimit64, &[0, RLIMIT_NOFILE as usize]), 0);
        let confined = std::thread::spawn(|| {
            let lacks = confine(Role::Disk, Mode::On);
            std::thread::spawn(move || lacks.seccomp).join().unwrap()
        });
        assert_eq!(confined.join().unwrap(), None);
    });
}

#[test]
fn strict_ends_the_program_over_a_call_that_is_not_allowed() {
    const STRICT: &str = "SANDBOX_TEST_PROGRAM_STRICT";
    let test = "tests::program::strict_ends_the_program_over_a_call_that_is_not_allowed";
    if std::env::var(STRICT).is_ok() {
        assert!(confine_program(Mode::Strict).is_nothing());
        // clone3(2) only fails, so that the C library can fall back.
        assert_eq!(errno(SYS_clone3, &[]), ENOSYS);
        errno(SYS_ptrace, &[]);
        return;
    }
    let (status, said) = in_process(test, STRICT, "1");
    assert_eq!(status.signal(), Some(SIGSYS), "{status}: {said}");
}

#[test]
fn rights_that_are_given_up_are_not_gained() {
    alone("rights_that_are_given_up_are_not_gained", || {
        gain_none().unwrap();
        let status = std::thread::spawn(|| std::fs::read_to_string("/proc/thread-self/status").unwrap());
        let status = status.join().unwrap();
        let of = |key: &str| status.lines().find_map(|line| Some(line.strip_prefix(key)?.trim().to_owned()));
        assert_eq!(of("NoNewPrivs:").as_deref(), Some("1"));
        // SAFETY: a system call without memory.
        if unsafe { geteuid() } == 0 {
            assert_eq!(of("CapBnd:").as_deref(), Some("0000000000000000"));
        } else {
            println!("not tried: only root has capabilities to take away");
        }
    });
}
