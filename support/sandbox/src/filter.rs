//! Building blocks for filters of system calls.

use std::collections::BTreeMap;

use libc::{ENOSYS, SYS_clone3, c_int, c_long};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

pub(crate) use SeccompCmpOp::{Eq, MaskedEq, Ne};

/// System calls by number. A call matches if all conditions of one of its rules hold, or if it has no
/// rules.
pub(crate) type Calls = BTreeMap<i64, Vec<SeccompRule>>;

/// Calls of the x32 ABI have this bit in their numbers. They repeat the same calls, so that a list of
/// calls easily misses them.
const X32: u32 = 0x4000_0000;

/// Matches these calls, whatever their arguments.
pub(crate) fn any(calls: &[c_long]) -> Calls {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

/// A condition on the lower 32 bits of an argument.
pub(crate) fn int(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)
}

/// A condition on a whole argument.
pub(crate) fn word(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, op, value)
}

/// Rules with one condition each: a call matches if one of the conditions holds.
pub(crate) fn one_of(
    conditions: impl IntoIterator<Item = Result<SeccompCondition, BackendError>>,
) -> Result<Vec<SeccompRule>, BackendError> {
    conditions.into_iter().map(|condition| SeccompRule::new(vec![condition?])).collect()
}

/// One rule: a call matches if all of the conditions hold.
pub(crate) fn all_of<const N: usize>(
    conditions: [Result<SeccompCondition, BackendError>; N],
) -> Result<Vec<SeccompRule>, BackendError> {
    let conditions = conditions.into_iter().collect::<Result<_, _>>()?;
    Ok(vec![SeccompRule::new(conditions)?])
}

/// The ID of this process, as an argument of a system call.
pub(crate) fn own() -> u64 {
    u64::from(std::process::id())
}

/// A filter that applies `listed` to `calls` and `others` to every other call.
pub(crate) fn program(
    calls: Calls,
    listed: SeccompAction,
    others: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(calls, others, listed, TargetArch::x86_64)?.try_into()
}

/// A filter that makes `call`, and every call of the x32 ABI, fail with `errno`.
///
/// Written by hand (linux/bpf_common.h, linux/seccomp.h), because [`SeccompFilter`] cannot express a
/// range of numbers, which x32 is, and because its programs have one outcome for all listed calls.
fn refusing(call: c_long, errno: c_int) -> BpfProgram {
    let instruction = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        // BPF_LD | BPF_W | BPF_ABS of seccomp_data.nr. In the jumps below, the second and third number
        // are the instructions to skip.
        instruction(0x20, 0, 0, 0),
        // BPF_JMP | BPF_JEQ | BPF_K.
        instruction(0x15, 1, 0, call as u32),
        // BPF_JMP | BPF_JGE | BPF_K.
        instruction(0x35, 0, 1, X32),
        // BPF_RET of SECCOMP_RET_ERRNO, and BPF_RET of SECCOMP_RET_ALLOW.
        instruction(0x06, 0, 0, 0x0005_0000 | errno as u32),
        instruction(0x06, 0, 0, 0x7fff_0000),
    ]
}

/// A filter that makes the kernel seem to lack clone3(2), whose arguments no filter can examine, and
/// x32. C libraries then fall back to clone(2).
pub(crate) fn without_clone3() -> BpfProgram {
    refusing(SYS_clone3, ENOSYS)
}

/// A filter by which openat(2) fails with EPERM.
pub(crate) fn without_openat() -> BpfProgram {
    refusing(libc::SYS_openat, libc::EPERM)
}
