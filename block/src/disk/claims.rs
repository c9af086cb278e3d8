//! The claims of commands and jobs on a disk, and the table of those that exclude each other.
//!
//! A claim names what it needs. The whole table of conflicts:
//!
//! | | the whole disk | images | a follower | the leaf |
//! |---|---|---|---|---|
//! | the whole disk | conflict | conflict | conflict | conflict |
//! | images | conflict | conflict if they share one | conflict if the leaf is one of them | side by side |
//! | a follower | conflict | conflict if the leaf is one of them | side by side | side by side |
//! | the leaf | conflict | side by side | side by side | side by side |
//!
//! A follower that is to move the disk needs the whole disk from then on ([`Disk::strengthen`]).
//!
//! An image is known by its node name, which it keeps when it is opened again for writing.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use executor::sync::Event;

use super::Disk;
use super::job::JobKind;
use crate::{Error, ErrorKind, Result};

/// The holder of a claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Claimant {
    /// A job of this kind.
    Job(JobKind),
    /// A command that is done when it has been answered, as it is named in messages: 'a switch'.
    Command(&'static str),
}

/// The part of a disk that a claim is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Needs {
    /// The disk, with every image of its chain.
    Disk,
    /// The images with these node names: their content as a guest sees it, and their places in the chain.
    Images(BTreeSet<String>),
    /// The leaf, with this node name, stays in its place, and no other job changes the leaf: a copy follows
    /// what the guest writes there.
    Follower(String),
    /// The disk's leaf stays in its place: only what a guest reads matters.
    Leaf,
}

impl Needs {
    fn conflict(&self, other: &Needs) -> bool {
        match (self, other) {
            (Needs::Disk, _) | (_, Needs::Disk) => true,
            (Needs::Images(a), Needs::Images(b)) => !a.is_disjoint(b),
            (Needs::Images(images), Needs::Follower(leaf))
            | (Needs::Follower(leaf), Needs::Images(images)) => images.contains(leaf),
            (Needs::Follower(_), Needs::Follower(_)) => false,
            (Needs::Leaf, _) | (_, Needs::Leaf) => false,
        }
    }
}

/// Everything that is claimed of a disk.
#[derive(Default)]
pub(super) struct Claims {
    next: Cell<u64>,
    held: RefCell<BTreeMap<u64, (Claimant, Needs)>>,
    /// A claim was given back.
    released: Event,
}

impl Claims {
    pub(super) fn is_empty(&self) -> bool {
        self.held.borrow().is_empty()
    }

    /// Waits until a claim is given back.
    pub(super) async fn released(&self) {
        self.released.wait().await;
    }

    /// Returns the claimant that has something of `needs`, other than the claim `own`; of several, a job
    /// rather than a command.
    fn conflicting(&self, needs: &Needs, own: Option<u64>) -> Option<Claimant> {
        let held = self.held.borrow();
        let others = held.iter().filter(|(id, _)| own != Some(**id)).map(|(_, other)| other);
        let mut found = others.filter(|(_, other)| needs.conflict(other)).map(|(claimant, _)| *claimant);
        let first = found.next()?;
        let is_job = |claimant: &Claimant| matches!(claimant, Claimant::Job(_));
        Some(std::iter::once(first).chain(found).find(is_job).unwrap_or(first))
    }
}

/// A claim that was granted; dropping it gives it back.
pub(crate) struct Claim {
    disk: Rc<Disk>,
    id: u64,
}

impl Claim {
    /// Its number, for [`Disk::strengthen`].
    pub(super) fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let claims = &self.disk.claims;
        claims.held.borrow_mut().remove(&self.id);
        claims.released.notify();
    }
}

impl Disk {
    /// Claims a part of the disk. `name` is the device or node name by which the caller asked for it.
    ///
    /// # Errors
    /// `InUse` if a part of it is claimed, naming by whom, with QEMU's text if that is a job; and if the
    /// disk is being closed.
    pub(crate) fn claim(self: &Rc<Self>, claimant: Claimant, needs: Needs, name: &str) -> Result<Claim> {
        self.check_open()?;
        self.check_unclaimed(&needs, name)?;
        let id = self.claims.next.replace(self.claims.next.get() + 1);
        self.claims.held.borrow_mut().insert(id, (claimant, needs));
        Ok(Claim { disk: self.clone(), id })
    }

    /// Claims the whole disk for a command, which messages call `what`.
    ///
    /// # Errors
    /// As [`Disk::claim`].
    pub(crate) fn claim_whole(self: &Rc<Self>, what: &'static str) -> Result<Claim> {
        self.claim(Claimant::Command(what), Needs::Disk, self.name())
    }

    /// Fails as [`Disk::claim`] would, with the same text.
    pub(crate) fn check_unclaimed(&self, needs: &Needs, name: &str) -> Result<()> {
        self.check_others(needs, name, None)
    }

    /// Has a follower's claim stand for the whole disk from now on. Other claims stay as they are.
    ///
    /// # Errors
    /// `InUse` if something else of the disk is claimed.
    pub(super) fn strengthen(&self, claim: u64) -> Result<()> {
        let is_follower = |held: &(Claimant, Needs)| matches!(held.1, Needs::Follower(_));
        if self.claims.held.borrow().get(&claim).is_some_and(is_follower) {
            self.check_others(&Needs::Disk, self.name(), Some(claim))?;
            if let Some((_, needs)) = self.claims.held.borrow_mut().get_mut(&claim) {
                *needs = Needs::Disk;
            }
        }
        Ok(())
    }

    fn check_others(&self, needs: &Needs, name: &str, own: Option<u64>) -> Result<()> {
        let text = match self.claims.conflicting(needs, own) {
            None => return Ok(()),
            Some(Claimant::Job(kind)) => {
                format!("Node '{name}' is busy: block device is in use by block job: {}", kind.name())
            }
            Some(Claimant::Command(what)) => format!("Device '{}' is in use: {what} is active", self.name()),
        };
        Err(Error::new(ErrorKind::InUse, text))
    }
}

#[cfg(test)]
#[path = "claims_tests.rs"]
mod tests;
