//! Landlock: the files that a thread may open, and the peers that it may connect to and signal.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

/// The newest landlock version whose restrictions are requested. An older kernel leaves what it does not
/// know unrestricted: the network before version 4, abstract sockets and signals before version 6.
const VERSION: ABI = ABI::V10;

/// Takes away from this thread all access to files by name and, as far as the kernel can, new
/// connections, abstract sockets and signals to other processes. This also holds for requests that go
/// through an io_uring.
///
/// # Errors
/// If the kernel has no landlock.
pub(crate) fn allow_none() -> Result<(), String> {
    let restrict = || {
        let rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
        let rules = rules.handle_access(AccessFs::from_all(VERSION))?;
        let rules = rules.handle_access(AccessNet::from_all(VERSION))?;
        rules.scope(Scope::from_all(VERSION))?.create()?.restrict_self()
    };
    outcome(restrict())
}

/// Restricts this thread, and the threads it creates, to the files below these folders. Connections to
/// servers are not restricted.
///
/// # Errors
/// If a folder does not exist, or the kernel has no landlock.
pub fn allow_only(folders: &[PathBuf]) -> Result<(), String> {
    let folders = folders.iter().map(|folder| PathFd::new(folder).map_err(|e| e.to_string()));
    let folders = folders.collect::<Result<Vec<_>, _>>()?;
    let restrict = || {
        // The file rights of version 5. Later versions only add rights on sockets.
        let all = AccessFs::from_all(ABI::V5);
        let rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(all)?;
        let rules = folders
            .iter()
            .try_fold(rules.create()?, |rules, folder| rules.add_rule(PathBeneath::new(folder, all)))?;
        rules.restrict_self()
    };
    outcome(restrict())
}

fn outcome(status: Result<RestrictionStatus, RulesetError>) -> Result<(), String> {
    match status.map_err(|e| e.to_string())?.ruleset {
        RulesetStatus::NotEnforced => Err("the kernel has none, or it is switched off".to_owned()),
        _ => Ok(()),
    }
}
