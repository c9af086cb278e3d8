//! Seccomp: the system calls that each kind of thread makes.

use std::collections::BTreeMap;

use libc::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use crate::{Mode, Role};

/// Every thread: memory, locks, signals, clocks, descriptors that are open, and its end.
const COMMON: &[c_long] = &[
    SYS_brk,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_close,
    SYS_exit,
    SYS_exit_group,
    SYS_fcntl,
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
    SYS_tgkill,
    SYS_write,
    SYS_writev,
    // When the program stops being root's, the C library has each of its threads do it, and aborts where one
    // cannot. It gives root nothing that root has not, and nobody else anything.
    SYS_setgroups,
    SYS_setresgid,
    SYS_setresuid,
];

/// A disk's: I/O on open files and connections, its event loop, and workers that are confined alike.
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
    // The path of the working directory, for names that are relative.
    SYS_getcwd,
    // The event loop and the ring.
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_epoll_wait,
    SYS_eventfd2,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    // Connections that were made elsewhere.
    SYS_getpeername,
    SYS_getsockname,
    SYS_getsockopt,
    SYS_recvfrom,
    SYS_recvmsg,
    SYS_sendmsg,
    SYS_sendto,
    SYS_setsockopt,
    SYS_shutdown,
    // Workers.
    SYS_clone,
    SYS_clone3,
    SYS_prctl,
    SYS_rseq,
    SYS_sched_getaffinity,
    SYS_set_robust_list,
];

/// A device's: its event loop, connections that were made elsewhere, and what the allocator asks once.
const DEVICE: &[c_long] =
    &[SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_wait, SYS_recvfrom, SYS_sched_getaffinity, SYS_sendto];

/// What an image's file, or a connection, is asked by ioctl(2).
const DISK_IOCTLS: &[c_ulong] = &[FICLONERANGE, FIONBIO];

/// What a vCPU is asked by ioctl(2): KVM_RUN, KVM_GET_REGS and KVM_KVMCLOCK_CTRL of linux/kvm.h.
const VCPU_IOCTLS: &[c_ulong] = &[0xae80, 0x8090_ae81, 0xaead];

/// Lets only the calls of `role` through on this thread.
pub(crate) fn filter(role: Role, mode: Mode) -> Result<(), String> {
    let program = program(role, mode).map_err(|e| e.to_string())?;
    seccompiler::apply_filter(&program).map_err(|e| e.to_string())
}

fn program(role: Role, mode: Mode) -> Result<BpfProgram, seccompiler::BackendError> {
    let (calls, ioctls) = match role {
        Role::Vcpu => (&[][..], VCPU_IOCTLS),
        Role::Disk => (DISK, DISK_IOCTLS),
        Role::Device => (DEVICE, &[][..]),
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        COMMON.iter().chain(calls).map(|call| (*call, Vec::new())).collect();
    let asks = |ioctl: &c_ulong| {
        // The kernel looks at 32 bits of it.
        let is = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *ioctl)?;
        SeccompRule::new(vec![is])
    };
    rules.insert(SYS_ioctl, ioctls.iter().map(asks).collect::<Result<_, _>>()?);
    let otherwise = match mode {
        Mode::Strict => {
            // Left to landlock: glibc's allocator opens /proc/sys/vm/overcommit_memory, and copes with a refusal.
            rules.insert(SYS_openat, Vec::new());
            SeccompAction::KillProcess
        }
        Mode::On | Mode::Off => SeccompAction::Errno(EPERM as u32),
    };
    SeccompFilter::new(rules, otherwise, SeccompAction::Allow, TargetArch::x86_64)?.try_into()
}
