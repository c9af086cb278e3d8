//! Tests of what confined threads of each role can no longer do.

use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;

use libc::*;

use super::{confined, errno, in_process};
use crate::{Mode, Role, syscalls};

const ROLES: [Role; 5] = [Role::Disk, Role::Vcpu, Role::Device, Role::Screen, Role::Page];

/// Creates a child by clone(2) with these flags; the child exits at once. Returns the error number, or
/// 0.
fn cloned(flags: c_int) -> i32 {
    // SAFETY: without CLONE_VM and without a stack this is fork(2); the child does nothing but exit.
    match unsafe { syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0) } {
        // SAFETY: ends the process.
        0 => unsafe { _exit(0) },
        child if child < 0 => std::io::Error::last_os_error().raw_os_error().unwrap(),
        _ => 0,
    }
}

#[test]
fn other_processes_are_out_of_reach() {
    let (parent, fd) = (std::os::unix::process::parent_id() as usize, 0);
    for role in ROLES {
        confined(role, Mode::On, move || {
            // SAFETY: a system call without memory.
            let (own, thread) = (std::process::id() as usize, unsafe { gettid() } as usize);
            assert_eq!(errno(SYS_tgkill, &[own, thread, 0]), 0, "{role:?} signals itself");
            assert_eq!(errno(SYS_tgkill, &[parent, parent, 0]), EPERM, "{role:?} signals its parent");
            for command in [F_SETOWN, F_SETLEASE, F_NOTIFY, 10, 15] {
                assert_eq!(errno(SYS_fcntl, &[fd, command as usize, parent]), EPERM, "{role:?} {command}");
            }
            assert_eq!(errno(SYS_fcntl, &[fd, F_GETFL as usize]), 0);
            for call in [
                SYS_kill,
                SYS_tkill,
                SYS_rt_tgsigqueueinfo,
                SYS_ptrace,
                SYS_process_vm_readv,
                SYS_process_vm_writev,
                SYS_pidfd_open,
                SYS_prlimit64,
            ] {
                assert_eq!(errno(call, &[parent]), EPERM, "{role:?} call {call}");
            }
        });
    }
}

#[test]
fn no_process_and_no_namespace_is_made() {
    for role in ROLES {
        confined(role, Mode::On, move || {
            for flags in [0, CLONE_VFORK, CLONE_NEWUSER, CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS] {
                assert_eq!(cloned(flags), EPERM, "{role:?} {flags:x}");
            }
            // If clone3 is missing, the C library falls back to clone.
            let clone3 = errno(SYS_clone3, &[0, 0]);
            assert_eq!(clone3, if role == Role::Disk { ENOSYS } else { EPERM }, "{role:?}");
            for call in [SYS_fork, SYS_vfork, SYS_execve, SYS_execveat, SYS_unshare, SYS_setns, SYS_chroot] {
                assert_eq!(errno(call, &[0]), EPERM, "{role:?} call {call}");
            }
            // A thread in its own namespaces.
            let thread = CLONE_THREAD | CLONE_VM | CLONE_SIGHAND | CLONE_NEWNET;
            assert_eq!(errno(SYS_clone, &[thread as usize]), EPERM, "{role:?}");
        });
    }
}

#[test]
fn a_disks_thread_names_itself_and_changes_nothing_else_of_itself() {
    confined(Role::Disk, Mode::On, || {
        assert_eq!(errno(SYS_prctl, &[PR_SET_NAME as usize, c"disk".as_ptr() as usize]), 0);
        for option in [PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_MM, PR_SET_PTRACER, PR_SET_KEEPCAPS] {
            assert_eq!(errno(SYS_prctl, &[option as usize, 0]), EPERM, "option {option}");
        }
    });
}

#[test]
fn calls_that_go_around_others_are_gone() {
    for role in ROLES {
        confined(role, Mode::On, move || {
            for call in [
                SYS_io_uring_setup,
                SYS_io_uring_register,
                SYS_vmsplice,
                SYS_splice,
                SYS_userfaultfd,
                SYS_open,
                SYS_openat2,
                SYS_open_by_handle_at,
                SYS_memfd_create,
                SYS_bpf,
                SYS_io_setup,
                SYS_seccomp,
            ] {
                assert_eq!(errno(call, &[]), EPERM, "{role:?} call {call}");
            }
            // The same calls by their x32 numbers.
            assert_eq!(errno(0x4000_0000 | SYS_openat, &[]), EPERM, "{role:?}");
        });
    }
}

#[test]
fn what_is_connected_stays_so_and_goes_nowhere_else() {
    for role in [Role::Disk, Role::Device] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (unix, _peer) = UnixStream::pair().unwrap();
        let _peer_of_tcp = listener.accept().unwrap();
        confined(role, Mode::On, move || {
            let (bytes, to) = (b"abc".as_ptr() as usize, [0u16; 8]);
            let fd = |socket: &dyn AsRawFd| socket.as_raw_fd() as usize;
            let nowhere = [0, 0];
            for socket in [fd(&tcp), fd(&unix)] {
                let send = |flags: c_int, [to, len]: [usize; 2]| {
                    errno(SYS_sendto, &[socket, bytes, 3, flags as usize, to, len])
                };
                assert_eq!(send(MSG_NOSIGNAL, nowhere), 0, "{role:?}");
                assert_eq!(send(MSG_FASTOPEN, nowhere), EPERM, "{role:?}");
                assert_eq!(send(0, [to.as_ptr() as usize, 16]), EPERM, "{role:?}");
            }
            let elsewhere = errno(SYS_sendto, &[fd(&udp), bytes, 3, 0, to.as_ptr() as usize, 16]);
            assert_eq!(elsewhere, EPERM, "{role:?}");
            let message = [0u8; 64];
            let fast = [fd(&tcp), message.as_ptr() as usize, MSG_FASTOPEN as usize];
            assert_eq!(errno(SYS_sendmsg, &fast), EPERM, "{role:?}");
            for call in [SYS_socket, SYS_socketpair, SYS_connect, SYS_bind, SYS_listen, SYS_accept4] {
                assert_eq!(errno(call, &[fd(&tcp)]), EPERM, "{role:?} call {call}");
            }
            for call in [SYS_setsockopt, SYS_sendmmsg] {
                assert_eq!(errno(call, &[fd(&tcp)]), EPERM, "{role:?} call {call}");
            }
        });
    }
}

#[test]
fn a_pages_thread_accepts_and_connects_nowhere() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    confined(Role::Page, Mode::On, move || {
        let (stream, _) = listener.accept().unwrap();
        let fd = stream.as_raw_fd() as usize;
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        for call in [SYS_socket, SYS_socketpair, SYS_connect, SYS_bind, SYS_listen, SYS_sendmsg, SYS_sendmmsg]
        {
            assert_eq!(errno(call, &[fd]), EPERM, "call {call}");
        }
        let one = 1 as c_int;
        let option = [fd, SOL_SOCKET as usize, SO_REUSEPORT as usize, &raw const one as usize, 4];
        assert_eq!(errno(SYS_setsockopt, &option), EPERM);
        assert!(std::fs::File::open("/etc/passwd").is_err());
    });
}

#[test]
fn a_screens_thread_accepts_and_sets_only_its_own_options() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    confined(Role::Screen, Mode::On, move || {
        let (stream, _) = listener.accept().unwrap();
        let fd = stream.as_raw_fd() as usize;
        let one = 1 as c_int;
        let set = |level: c_int, name: c_int| {
            let value = &raw const one as usize;
            errno(SYS_setsockopt, &[fd, level as usize, name as usize, value, size_of::<c_int>()])
        };
        for (level, name) in
            [(SOL_SOCKET, SO_KEEPALIVE), (IPPROTO_TCP, TCP_KEEPIDLE), (IPPROTO_TCP, TCP_NODELAY)]
        {
            assert_eq!(set(level, name), 0, "{level} {name}");
        }
        // The same numbers of another level are other options.
        for (level, name) in [
            (SOL_SOCKET, SO_REUSEPORT),
            (SOL_SOCKET, SO_ATTACH_FILTER),
            (SOL_SOCKET, TCP_NODELAY),
            (IPPROTO_IP, TCP_KEEPIDLE),
            (IPPROTO_IP, IP_ADD_MEMBERSHIP),
            (IPPROTO_TCP, SO_KEEPALIVE),
            (IPPROTO_TCP, TCP_ULP),
            (IPPROTO_TCP, TCP_CONGESTION),
            (IPPROTO_TCP, TCP_REPAIR),
        ] {
            assert_eq!(set(level, name), EPERM, "{level} {name}");
        }
        for call in [
            SYS_recvmsg,
            SYS_recvmmsg,
            SYS_getsockopt,
            SYS_getpeername,
            SYS_socket,
            SYS_connect,
            SYS_bind,
            SYS_listen,
        ] {
            assert_eq!(errno(call, &[fd]), EPERM, "call {call}");
        }
        let nonblocking = errno(SYS_ioctl, &[fd, FIONBIO as usize, &raw const one as usize]);
        assert_eq!(nonblocking, EPERM, "FIONBIO");
    });
}

#[test]
fn without_landlock_no_mode_opens_a_file() {
    for role in ROLES {
        for mode in [Mode::On, Mode::Strict] {
            let opened = std::thread::spawn(move || {
                syscalls::filter(role, mode).unwrap();
                let path = c"/proc/self/status";
                errno(SYS_openat, &[AT_FDCWD as usize, path.as_ptr() as usize, 0])
            });
            assert_eq!(opened.join().unwrap(), EPERM, "{role:?} {mode:?}");
        }
    }
}

#[test]
fn strict_ends_the_process_over_each_of_them() {
    const NAME: &str = "SANDBOX_TEST_STRICT";
    let calls = [("clone", SYS_clone), ("tgkill", SYS_tgkill), ("fcntl", SYS_fcntl), ("prctl", SYS_prctl)];
    if let Ok(number) = std::env::var(NAME) {
        let (_, call) = calls[number.parse::<usize>().unwrap()];
        let mut file = tempfile::tempfile().unwrap();
        confined(Role::Disk, Mode::Strict, move || {
            // Everything that a disk's thread needs still works.
            file.write_all(b"abc").unwrap();
            std::thread::Builder::new().name("worker".into()).spawn(|| ()).unwrap().join().unwrap();
            errno(call, &[usize::MAX, usize::MAX])
        });
        std::process::exit(3);
    }
    let test = "tests::confined::strict_ends_the_process_over_each_of_them";
    for (number, (name, _)) in calls.iter().enumerate() {
        let (status, said) = in_process(test, NAME, &number.to_string());
        assert_eq!(status.signal(), Some(SIGSYS), "{name}: {status}: {said}");
    }
}
