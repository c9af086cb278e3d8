//! Landlock: which files a thread may open.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus,
};

/// The newest version whose rights are asked for; what an older kernel lacks of them stays allowed.
const VERSION: ABI = ABI::V5;

/// No file by name for this thread.
pub(crate) fn allow_none() -> Result<(), String> {
    restrict(&[])
}

/// Only files below these folders for this thread, and the threads that it makes.
///
/// # Errors
/// A folder that is not there, or a kernel without landlock.
pub fn allow_only(folders: &[PathBuf]) -> Result<(), String> {
    let folders = folders.iter().map(|folder| PathFd::new(folder).map_err(|e| e.to_string()));
    restrict(&folders.collect::<Result<Vec<_>, _>>()?)
}

fn restrict(folders: &[PathFd]) -> Result<(), String> {
    let status = (|| {
        let all = AccessFs::from_all(VERSION);
        let rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(all)?;
        let rules = folders
            .iter()
            .try_fold(rules.create()?, |rules, folder| rules.add_rule(PathBeneath::new(folder, all)))?;
        rules.restrict_self()
    })();
    match status.map_err(|e| e.to_string())?.ruleset {
        RulesetStatus::NotEnforced => Err("the kernel has none, or it is switched off".to_owned()),
        _ => Ok(()),
    }
}
