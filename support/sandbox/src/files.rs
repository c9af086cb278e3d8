//! Landlock: which files a thread may open, and what it may connect to and signal.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

/// The newest version whose rights are asked for; what an older kernel lacks of them stays allowed: the
/// network before version 4, abstract sockets and signals before 6.
const VERSION: ABI = ABI::V10;

/// Takes from this thread every file by name, and as far as the kernel can, new connections, abstract sockets
/// and signals to other processes. Holds whichever way the kernel is asked: also through an io_uring.
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

/// Leaves this thread, and the threads that it makes, files below these folders alone. Connections to servers
/// are not restricted.
///
/// # Errors
/// If a folder does not exist, or the kernel has no landlock.
pub fn allow_only(folders: &[PathBuf]) -> Result<(), String> {
    let folders = folders.iter().map(|folder| PathFd::new(folder).map_err(|e| e.to_string()));
    let folders = folders.collect::<Result<Vec<_>, _>>()?;
    let restrict = || {
        // The rights on files of version 5: the later ones are about sockets.
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
