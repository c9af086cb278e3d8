//! `--user`: what root has opened stays open, and nothing more is done as root.

use std::ffi::CString;

use nix::unistd::{User, geteuid, initgroups, setresgid, setresuid};

use super::Failure;

/// Whom the program becomes.
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
            return Err(refuse("only root can become another user: start the program as that one".into()));
        }
        let name = CString::new(user.name.as_bytes()).map_err(|e| refuse(e.to_string()))?;
        Ok(NewUser { user, name })
    }

    /// Makes every thread of the program that user's, with that user's groups, for good, and the sockets that
    /// it listens on.
    ///
    /// The C library sees to the threads (nptl(7)), so those that are confined must be let do it.
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
