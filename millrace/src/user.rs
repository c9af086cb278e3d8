//! `--user`: files that root has opened stay open, and the program continues as another user.

use std::ffi::CString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::unistd::{User, geteuid, initgroups, setresgid, setresuid};

use super::Failure;

/// The user whose identity the process takes on.
pub(super) struct NewUser {
    user: User,
    name: CString,
}

impl NewUser {
    /// Looks `name` up, before anything else is done.
    pub(super) fn find(name: &str) -> Result<Self, Failure> {
        let refuse = |why: String| format!("--user {name}: {why}");
        let user = User::from_name(name).map_err(|e| refuse(e.to_string()))?;
        let user = user.ok_or_else(|| refuse("there is no such user".into()))?;
        if !geteuid().is_root() {
            return Err(refuse("only root can switch users: start the program as that user".into()));
        }
        let name = CString::new(user.name.as_bytes()).map_err(|e| refuse(e.to_string()))?;
        Ok(NewUser { user, name })
    }

    /// Lets a command run as that user, without groups other than the user's own.
    pub(super) fn run_as(&self, command: &mut Command) {
        command.uid(self.user.uid.as_raw()).gid(self.user.gid.as_raw());
    }

    /// Gives that user's identity and groups to every thread of the program, permanently, and gives that
    /// user the sockets that the program listens on.
    ///
    /// The C library applies the change on every thread (nptl(7)), so the sandbox must allow these calls on
    /// confined threads.
    pub(super) fn enter(&self) -> Result<(), Failure> {
        let (uid, gid) = (self.user.uid, self.user.gid);
        let refused = |why: &dyn std::fmt::Display| format!("--user {}: {why}", self.user.name);
        qmp::give_sockets(uid.as_raw(), gid.as_raw()).map_err(|e| refused(&e))?;
        let entered = initgroups(&self.name, gid)
            .and_then(|()| setresgid(gid, gid, gid))
            .and_then(|()| setresuid(uid, uid, uid));
        entered.map_err(|e| refused(&e.desc()))
    }
}
