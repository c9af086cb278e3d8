//! What filters of system calls are made of.

use std::collections::BTreeMap;

use libc::{ENOSYS, SYS_clone3, c_int, c_long};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

pub(crate) use SeccompCmpOp::{Eq, MaskedEq, Ne};

/// Calls by number. A call is meant if all conditions of one of its rules hold, or if it has no rule.
pub(crate) type Calls = BTreeMap<i64, Vec<SeccompRule>>;

/// Calls of the x32 ABI have this bit in their numbers: the same calls once more, for a list to forget.
const X32: u32 = 0x4000_0000;

/// These calls, whatever their arguments.
pub(crate) fn any(calls: &[c_long]) -> Calls {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

/// A condition on the number that is an argument's lower 32 bits.
pub(crate) fn int(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)
}

/// A condition on a whole argument.
pub(crate) fn word(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, op, value)
}

/// Rules of which each has one condition.
pub(crate) fn one_of(
    conditions: impl IntoIterator<Item = Result<SeccompCondition, BackendError>>,
) -> Result<Vec<SeccompRule>, BackendError> {
    conditions.into_iter().map(|condition| SeccompRule::new(vec![condition?])).collect()
}

/// One rule with several conditions.
pub(crate) fn all_of<const N: usize>(
    conditions: [Result<SeccompCondition, BackendError>; N],
) -> Result<Vec<SeccompRule>, BackendError> {
    let conditions = conditions.into_iter().collect::<Result<_, _>>()?;
    Ok(vec![SeccompRule::new(conditions)?])
}

/// The ID of this process, as a call's argument.
pub(crate) fn own() -> u64 {
    u64::from(std::process::id())
}

/// A filter that does `listed` with `calls` and `others` with all others.
pub(crate) fn program(
    calls: Calls,
    listed: SeccompAction,
    others: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(calls, others, listed, TargetArch::x86_64)?.try_into()
}

/// A filter that lets `call`, and every call of the x32 ABI, fail with `errno`.
///
/// By hand (linux/bpf_common.h, linux/seccomp.h), because x32 is a range of numbers, which [`SeccompFilter`]
/// has not, and because its programs have one outcome for all calls.
fn refusing(call: c_long, errno: c_int) -> BpfProgram {
    let instruction = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        // BPF_LD | BPF_W | BPF_ABS of seccomp_data.nr; the numbers that follow are jumps over instructions.
        instruction(0x20, 0, 0, 0),
        // BPF_JMP | BPF_JEQ | BPF_K.
        instruction(0x15, 1, 0, call as u32),
        // BPF_JMP | BPF_JGE | BPF_K.
        instruction(0x35, 0, 1, X32),
        // BPF_RET of SECCOMP_RET_ERRNO, and of SECCOMP_RET_ALLOW.
        instruction(0x06, 0, 0, 0x0005_0000 | errno as u32),
        instruction(0x06, 0, 0, 0x7fff_0000),
    ]
}

/// A filter by which the kernel seems not to have clone3(2), whose arguments no filter can see, and x32. C
/// libraries take clone(2) then.
pub(crate) fn without_clone3() -> BpfProgram {
    refusing(SYS_clone3, ENOSYS)
}

/// A filter by which openat(2) fails with EPERM.
pub(crate) fn without_openat() -> BpfProgram {
    refusing(libc::SYS_openat, libc::EPERM)
}
