//! Seccomp for all threads of the program: denies the calls that none of them ever needs.

use libc::*;
use seccompiler::{BackendError, BpfProgram, SeccompAction};

use crate::Mode;
use crate::filter::{self, Calls, Eq, MaskedEq, Ne, all_of, any, int, one_of, own, word};
use crate::syscalls::NAMESPACES;

/// Calls that reach beyond the program. They are denied whatever their arguments.
pub(crate) const NEVER: &[c_long] = &[
    // Starting programs and other processes.
    SYS_execve,
    SYS_execveat,
    SYS_fork,
    SYS_vfork,
    // Other processes.
    SYS_kcmp,
    SYS_migrate_pages,
    SYS_move_pages,
    SYS_pidfd_getfd,
    SYS_pidfd_open,
    SYS_pidfd_send_signal,
    SYS_process_madvise,
    SYS_process_mrelease,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_ptrace,
    SYS_tkill,
    // Mounts and namespaces.
    SYS_chroot,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fsopen,
    SYS_fspick,
    SYS_mount,
    SYS_mount_setattr,
    SYS_move_mount,
    SYS_open_tree,
    SYS_pivot_root,
    SYS_setns,
    SYS_umount2,
    SYS_unshare,
    // Files by other ways than their names, and device nodes.
    SYS_fanotify_init,
    SYS_mknod,
    SYS_mknodat,
    SYS_open_by_handle_at,
    // Parts of the kernel that are large, or that often have bugs.
    SYS_add_key,
    SYS_bpf,
    SYS_keyctl,
    SYS_modify_ldt,
    SYS_perf_event_open,
    SYS_personality,
    SYS_request_key,
    SYS_userfaultfd,
    SYS_vmsplice,
    // Administration of the host.
    SYS_acct,
    SYS_adjtimex,
    SYS_clock_adjtime,
    SYS_clock_settime,
    SYS_delete_module,
    SYS_finit_module,
    SYS_init_module,
    SYS_ioperm,
    SYS_iopl,
    SYS_kexec_file_load,
    SYS_kexec_load,
    SYS_quotactl,
    SYS_quotactl_fd,
    SYS_reboot,
    SYS_setdomainname,
    SYS_sethostname,
    SYS_settimeofday,
    SYS_swapoff,
    SYS_swapon,
    SYS_syslog,
    SYS_vhangup,
];

/// Calls whose first argument is the process ID that they act on. Only this process's own ID is allowed.
const OWN: &[c_long] = &[SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo, SYS_tgkill];

/// The socket families that are allowed: the program creates them, and the C library when it looks up
/// names.
const SOCKETS: [c_int; 4] = [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK];

/// The ioctls that are denied because they type into the terminal as if its user did, or make the kernel
/// send signals: TIOCSTI, TIOCLINUX, and FIOSETOWN and SIOCSPGRP of asm-generic/sockios.h.
const IOCTLS: [c_ulong; 4] = [TIOCSTI, TIOCLINUX, 0x8901, 0x8902];

/// The operations of fcntl that are denied because they make the kernel send signals: F_SETSIG and
/// F_SETOWN_EX of asm-generic/fcntl.h are 10 and 15.
const FCNTLS: [c_int; 5] = [F_SETOWN, 10, 15, F_NOTIFY, F_SETLEASE];

/// Denies the calls of this file to all threads of the process, including future ones.
pub(crate) fn filter(mode: Mode) -> Result<(), String> {
    let never = program(mode).map_err(|e| e.to_string())?;
    [filter::without_clone3(), never]
        .iter()
        .try_for_each(|program| seccompiler::apply_filter_all_threads(program).map_err(|e| e.to_string()))
}

fn program(mode: Mode) -> Result<BpfProgram, BackendError> {
    let refused = match mode {
        Mode::Strict => SeccompAction::KillProcess,
        Mode::On | Mode::Off => SeccompAction::Errno(EPERM as u32),
    };
    filter::program(rules()?, refused, SeccompAction::Allow)
}

fn rules() -> Result<Calls, BackendError> {
    let mut rules = any(NEVER);
    for call in OWN {
        rules.insert(*call, one_of([int(0, Ne, own())])?);
    }
    // One signal may go to the whole process group: on Ctrl-Z, the text monitor's line editor stops the
    // group with it.
    let to_others = || int(0, Ne, own());
    let not_to_group = all_of([to_others(), int(0, Ne, 0)])?;
    let other_signals = all_of([to_others(), int(1, Ne, SIGTSTP as u64)])?;
    rules.insert(SYS_kill, [not_to_group, other_signals].concat());
    let (thread, namespaces) = (CLONE_THREAD as u64, (0..u64::BITS).map(|bit| NAMESPACES & 1 << bit));
    let with = namespaces.filter(|flag| *flag != 0).map(|flag| word(0, MaskedEq(flag), flag));
    rules.insert(SYS_clone, one_of([word(0, MaskedEq(thread), 0)].into_iter().chain(with))?);
    rules.insert(SYS_ioctl, one_of(IOCTLS.map(|ioctl| int(1, Eq, ioctl)))?);
    rules.insert(SYS_fcntl, one_of(FCNTLS.map(|command| int(1, Eq, command as u64)))?);
    rules.insert(SYS_socket, all_of(SOCKETS.map(|family| int(0, Ne, family as u64)))?);
    rules.insert(SYS_prlimit64, all_of([int(0, Ne, 0), int(0, Ne, own())])?);
    Ok(rules)
}
