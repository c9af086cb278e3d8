//! Seccomp: the system calls that each kind of thread makes.

use libc::*;
use seccompiler::{BackendError, BpfProgram, SeccompAction};

use crate::filter::{self, Calls, Eq, MaskedEq, all_of, any, int, one_of, own, word};
use crate::{Mode, Role};

/// Calls of every thread: memory, locks, signals, clocks, open descriptors, and the end of the thread.
const COMMON: &[c_long] = &[
    SYS_brk,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_close,
    SYS_exit,
    SYS_exit_group,
    SYS_futex,
    SYS_getpid,
    SYS_getrandom,
    SYS_gettid,
    SYS_gettimeofday,
    SYS_madvise,
    SYS_mmap,
    SYS_mprotect,
    SYS_mremap,
    SYS_munmap,
    SYS_nanosleep,
    SYS_poll,
    SYS_read,
    SYS_readv,
    SYS_restart_syscall,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sched_yield,
    SYS_sigaltstack,
    SYS_write,
    SYS_writev,
    // When the program gives up root, the C library makes every thread do it, and aborts if one of them
    // cannot. Allowing these calls gives root nothing new, and other users nothing.
    SYS_setgroups,
    SYS_setresgid,
    SYS_setresuid,
];

/// Calls of a disk's threads: I/O on open files and connections, the event loop, and workers that are
/// confined alike.
const DISK: &[c_long] = &[
    // Files.
    SYS_copy_file_range,
    SYS_fadvise64,
    SYS_fallocate,
    SYS_fdatasync,
    SYS_fstat,
    SYS_fstatfs,
    SYS_fsync,
    SYS_ftruncate,
    SYS_lseek,
    SYS_newfstatat,
    SYS_pread64,
    SYS_preadv,
    SYS_preadv2,
    SYS_pwrite64,
    SYS_pwritev,
    SYS_pwritev2,
    SYS_statx,
    SYS_sync_file_range,
    // The path of the working directory, to resolve relative names.
    SYS_getcwd,
    // The event loop, and the ring. The ring was created before, and the kernel restricts its
    // operations.
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_epoll_wait,
    SYS_eventfd2,
    SYS_io_uring_enter,
    // Connections that another thread made.
    SYS_getpeername,
    SYS_getsockname,
    SYS_recvfrom,
    SYS_recvmsg,
    SYS_shutdown,
    // Workers, which are created by clone(2); see `rules`.
    SYS_rseq,
    SYS_sched_getaffinity,
    SYS_set_robust_list,
];

/// Calls of a device's thread: the event loop, connections that another thread made, and the allocator's
/// one query.
const DEVICE: &[c_long] =
    &[SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_wait, SYS_recvfrom, SYS_sched_getaffinity];

/// Calls of the screen's thread: the event loop, its listening socket that another thread made, and its
/// clients' connections.
const SCREEN: &[c_long] = &[
    SYS_accept4,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_epoll_wait,
    SYS_eventfd2,
    SYS_getsockname,
    SYS_recvfrom,
    SYS_sched_getaffinity,
    SYS_shutdown,
];

/// The socket options that the screen's thread sets on its clients' connections: level and name.
const SCREEN_OPTIONS: [(c_int, c_int); 3] =
    [(SOL_SOCKET, SO_KEEPALIVE), (IPPROTO_TCP, TCP_KEEPIDLE), (IPPROTO_TCP, TCP_NODELAY)];

/// Calls of a web server's thread: the event loop, and connections that it accepts or that another process
/// made.
const PAGE: &[c_long] = &[
    SYS_accept4,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_epoll_wait,
    SYS_getpeername,
    SYS_getsockname,
    SYS_getsockopt,
    SYS_recvfrom,
    SYS_recvmsg,
    SYS_sched_getaffinity,
    SYS_shutdown,
];

/// The socket option that a web server's thread sets on its clients' connections: level and name.
const PAGE_OPTIONS: [(c_int, c_int); 1] = [(IPPROTO_TCP, TCP_NODELAY)];

/// The ioctls on an image's file or on a connection.
const DISK_IOCTLS: &[c_ulong] = &[FICLONERANGE, FIONBIO];

/// The ioctls on a vCPU: KVM_RUN, KVM_GET_REGS and KVM_KVMCLOCK_CTRL of linux/kvm.h.
const VCPU_IOCTLS: &[c_ulong] = &[0xae80, 0x8090_ae81, 0xaead];

/// The ioctl on a VM: KVM_GET_DIRTY_LOG of linux/kvm.h.
const SCREEN_IOCTLS: &[c_ulong] = &[0x4010_ae42];

/// The allowed commands of fcntl(2). Others make the kernel send signals to any process (F_SETOWN,
/// F_SETSIG).
const FCNTLS: &[c_int] =
    &[F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW];

/// The clone(2) flags that create a process or thread in new namespaces.
pub(crate) const NAMESPACES: u64 = (CLONE_NEWCGROUP
    | CLONE_NEWIPC
    | CLONE_NEWNET
    | CLONE_NEWNS
    | CLONE_NEWPID
    | CLONE_NEWUSER
    | CLONE_NEWUTS) as u64;

/// Allows only the calls of `role` on this thread.
pub(crate) fn filter(role: Role, mode: Mode) -> Result<(), String> {
    let own = program(role, mode).map_err(|e| e.to_string())?;
    // The kernel applies the strictest result of all filters. These are installed first: the last one
    // denies seccomp(2).
    let mut all = vec![filter::without_clone3()];
    if mode == Mode::Strict {
        // glibc's allocator opens /proc/sys/vm/overcommit_memory, and copes when that fails.
        all.push(filter::without_openat());
    }
    all.push(own);
    all.iter().try_for_each(|program| seccompiler::apply_filter(program).map_err(|e| e.to_string()))
}

fn program(role: Role, mode: Mode) -> Result<BpfProgram, BackendError> {
    let mut rules = rules(role)?;
    let otherwise = match mode {
        Mode::Strict => {
            // Allowed here because another filter makes it fail; it must not end the process.
            rules.insert(SYS_openat, Vec::new());
            SeccompAction::KillProcess
        }
        Mode::On | Mode::Off => SeccompAction::Errno(EPERM as u32),
    };
    filter::program(rules, SeccompAction::Allow, otherwise)
}

fn rules(role: Role) -> Result<Calls, BackendError> {
    let (calls, ioctls) = match role {
        Role::Vcpu => (&[][..], VCPU_IOCTLS),
        Role::Disk => (DISK, DISK_IOCTLS),
        Role::Device => (DEVICE, &[][..]),
        Role::Screen => (SCREEN, SCREEN_IOCTLS),
        Role::Page => (PAGE, &[FIONBIO][..]),
    };
    let mut rules = any(COMMON);
    rules.append(&mut any(calls));
    // The kernel examines only the lower 32 bits of the request.
    rules.insert(SYS_ioctl, one_of(ioctls.iter().map(|ioctl| int(1, Eq, *ioctl)))?);
    rules.insert(SYS_fcntl, one_of(FCNTLS.iter().map(|command| int(1, Eq, *command as u64)))?);
    // For abort(3), and for the C library's thread functions.
    rules.insert(SYS_tgkill, one_of([int(0, Eq, own())])?);
    if role != Role::Vcpu {
        // Only to the peer of a connection, not to an address. MSG_FASTOPEN would connect like
        // connect(2).
        let no_new_peer = [word(4, Eq, 0), int(3, MaskedEq(MSG_FASTOPEN as u64), 0)];
        rules.insert(SYS_sendto, all_of(no_new_peer)?);
    }
    if matches!(role, Role::Disk | Role::Screen) {
        rules.insert(SYS_sendmsg, one_of([int(2, MaskedEq(MSG_FASTOPEN as u64), 0)])?);
    }
    let options = match role {
        Role::Screen => &SCREEN_OPTIONS[..],
        Role::Page => &PAGE_OPTIONS,
        Role::Vcpu | Role::Disk | Role::Device => &[],
    };
    if !options.is_empty() {
        let option =
            |(level, name): &(c_int, c_int)| all_of([int(1, Eq, *level as u64), int(2, Eq, *name as u64)]);
        let options = options.iter().map(option).collect::<Result<Vec<_>, _>>()?;
        rules.insert(SYS_setsockopt, options.concat());
    }
    if role == Role::Disk {
        let thread = CLONE_THREAD as u64;
        rules.insert(SYS_clone, one_of([word(0, MaskedEq(thread | NAMESPACES), thread)])?);
        // Allowed here because another filter makes it fail; it must not end the process.
        rules.insert(SYS_clone3, Vec::new());
        rules.insert(SYS_prctl, one_of([int(0, Eq, PR_SET_NAME as u64)])?);
    }
    Ok(rules)
}
