//! The switch: replaces the image under a running disk, in two phases: prepare, then commit or abort.
//!
//! Everything that can fail or take long is in *prepare*, while the guest runs; *commit* closes the
//! gate, waits for the requests inside, swaps a pointer and opens the gate again. Dropping the prepared
//! switch aborts it: the disk is unchanged.

use std::rc::Rc;
use std::time::Duration;

use crate::disk::{Claim, Closed, Disk, READ_ONLY};
use crate::format::{Kind, Summary};
use crate::image::chain;
use crate::image::node::Node;
use crate::image::{self, Create};
use crate::{Error, ErrorKind, Result};

/// Maximum time for which a switch waits for requests in flight. Then it gives up, and the guest continues.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// The target of a switch.
#[derive(Clone, Debug)]
pub struct Target {
    /// The image's file name.
    pub name: String,
    /// Its format. Without one, only an image whose backing file is the running one is accepted.
    pub format: Option<Kind>,
    /// True if the guest is notified of the new size. If false, the sizes must be equal.
    pub notify: bool,
}

/// An image over the running one.
#[derive(Clone, Debug)]
pub struct Overlay {
    /// Its file name.
    pub name: String,
    /// Its format: one that has backing files.
    pub format: Kind,
    /// True if it exists already and must not be created.
    pub existing: bool,
    /// Its node name; generated if `None`.
    pub node_name: Option<String>,
    /// True if the guest is notified of the new size.
    pub notify: bool,
}

/// A switch that is ready to be committed.
pub struct Prepared {
    disk: Rc<Disk>,
    leaf: Rc<Node>,
    notify: bool,
    claim: Claim,
}

/// The result of a switch.
#[derive(Clone, Copy, Debug)]
pub struct Switched {
    /// Time for which the gate was closed: the longest that a request waited because of the switch.
    pub blackout: Duration,
}

impl Disk {
    /// Opens the target and makes everything ready. On any error the disk is unchanged.
    ///
    /// # Errors
    /// `InUse` if a job or another switch has claimed the disk; errors of opening the target; `Invalid`
    /// if its size or format does not fit.
    pub async fn prepare_switch(self: &Rc<Self>, target: &Target) -> Result<Prepared> {
        let claim = self.claim_whole("a switch")?;
        self.prepare(target, claim).await
    }

    /// Creates an image over the running one, or opens an existing one, and makes everything ready to
    /// switch to it. On any error the disk is unchanged; an image that was created stays.
    ///
    /// # Errors
    /// As [`Disk::prepare_switch`]; `Unsupported` for a format without backing files, and for a
    /// read-only disk.
    pub async fn prepare_overlay(self: &Rc<Self>, overlay: &Overlay) -> Result<Prepared> {
        let claim = self.claim_whole("a switch")?;
        if self.read_only() {
            return Err(Error::new(ErrorKind::Unsupported, READ_ONLY));
        }
        if !overlay.format.has_backing() {
            let text = format!("Backing file not supported for file format '{}'", overlay.format);
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let leaf = self.leaf();
        if !overlay.existing {
            let backing = (self.opener.absolute(leaf.name())?, leaf.kind());
            let options = Create { size: Some(leaf.size()), backing: Some(backing), ..Create::default() };
            let images = Some(leaf.depth());
            image::create_over(&*self.opener, &overlay.name, overlay.format, &options, images).await?;
        }
        let target =
            Target { name: overlay.name.clone(), format: Some(overlay.format), notify: overlay.notify };
        let prepared = self.prepare(&target, claim).await?;
        let is_over = prepared.leaf.backing().is_some_and(|backing| Rc::ptr_eq(&backing, &leaf));
        if !is_over {
            let text = format!("{}: its backing file is not the running image", overlay.name);
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        if let Some(name) = &overlay.node_name {
            prepared.leaf.set_node_name(name);
        }
        Ok(prepared)
    }

    async fn prepare(self: &Rc<Self>, target: &Target, claim: Claim) -> Result<Prepared> {
        let old = self.leaf();
        let writable = !self.read_only();
        let leaf = match target.format {
            Some(kind) => self.open_target(&target.name, kind, &old, writable).await?,
            None => self.open_unnamed(&target.name, &old, writable).await?,
        };
        if leaf.size() == 0 {
            return Err(Error::new(ErrorKind::Invalid, format!("{}: the image is empty", target.name)));
        }
        if !target.notify && leaf.size() != old.size() {
            let text = format!(
                "{}: has {} bytes, but the disk has {}, and with notify=false the guest is not told of a new size",
                target.name,
                leaf.size(),
                old.size()
            );
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        if writable {
            old.flush().await?;
            leaf.storage().sync().await?;
            leaf.storage().sync_name().await?;
        }
        Ok(Prepared { disk: self.clone(), leaf, notify: target.notify, claim })
    }

    async fn open_target(
        self: &Rc<Self>,
        name: &str,
        kind: Kind,
        old: &Rc<Node>,
        writable: bool,
    ) -> Result<Rc<Node>> {
        let opener = &*self.opener;
        // Opened for reading first: that changes nothing in the target, and detects an image of the
        // disk's own chain before its locks refuse it.
        let probe = opener.open(name, false).await?;
        if let Some(identity) = probe.identity() {
            let is_it = |node: &Rc<Node>| node.storage().identity() == Some(identity);
            let text = match std::iter::successors(Some(old.clone()), |node| node.backing())
                .position(|node| is_it(&node))
            {
                Some(0) => format!("{name}: is the image that the disk runs on"),
                Some(_) if writable => {
                    format!("{name}: is a backing file of the running image, whose content depends on it")
                }
                _ => String::new(),
            };
            if !text.is_empty() {
                return Err(Error::new(ErrorKind::Invalid, text));
            }
        }
        drop(probe);
        if writable && let Some(leaf) = chain::open_over(opener, name, kind, old).await? {
            return Ok(leaf);
        }
        chain::open(opener, name, kind, writable).await
    }

    /// Opens a target of unknown format. A guest may have written such an image's header, so the format
    /// that it seems to have is accepted only if it records the running image as its backing file.
    async fn open_unnamed(self: &Rc<Self>, name: &str, old: &Rc<Node>, writable: bool) -> Result<Rc<Node>> {
        let refuse = || {
            let text = format!(
                "{name}: give a format: without one, only a copy-on-write image over the running image is accepted"
            );
            Error::new(ErrorKind::Invalid, text)
        };
        let probe = self.opener.open(name, false).await?;
        let kind = Kind::probe(&*probe).await?.ok_or_else(refuse)?;
        let header = Summary::read(&*probe, kind).await?;
        drop(probe);
        let backing = header.backing.ok_or_else(refuse)?;
        if !writable || !chain::is_same(&*self.opener, name, &backing.name, old).await? {
            return Err(refuse());
        }
        chain::open_over(&*self.opener, name, kind, old).await?.ok_or_else(refuse)
    }
}

impl Prepared {
    /// Returns the image that the disk will be switched to.
    pub fn leaf(&self) -> &Node {
        &self.leaf
    }

    /// Closes the disk's gate and waits for the requests inside: from here on the switch cannot fail.
    ///
    /// # Errors
    /// `TimedOut` if the requests in flight do not end within `deadline`, `InUse` if the disk is being
    /// closed. The disk runs on as before.
    pub async fn close(self, deadline: Duration) -> Result<Ready> {
        self.disk.check_open()?;
        let started = executor::now();
        match self.disk.drain(deadline).await {
            Some(closed) => Ok(Ready { prepared: self, closed, started }),
            None => {
                let name = self.disk.name();
                let text =
                    format!("{name}: requests in flight did not end within {deadline:?}; not switched");
                Err(Error::new(ErrorKind::TimedOut, text))
            }
        }
    }

    /// Commits the switch. After an error the disk runs on as before.
    ///
    /// # Errors
    /// As [`Prepared::close`].
    pub async fn commit(self, deadline: Duration) -> Result<Switched> {
        Ok(self.close(deadline).await?.commit().await)
    }
}

/// A switch whose disk is drained, with its gate closed. Dropping it opens the gate and changes nothing.
pub struct Ready {
    prepared: Prepared,
    closed: Closed,
    started: Duration,
}

impl Ready {
    /// Swaps the images, opens the gate, and then closes the old image and turns it into a backing file.
    /// An error of that is only logged: the switch is done, the guest's flushes meet the same error, and
    /// the next command that claims the disk tries again.
    pub async fn commit(self) -> Switched {
        let Ready { prepared: Prepared { disk, leaf, notify, claim }, closed, started } = self;
        let resized = leaf.size() != disk.size();
        let old = disk.swap(leaf);
        drop(closed);
        let blackout = executor::now() - started;
        if notify || resized {
            disk.announce_capacity();
        }
        // The guest runs again by now. Its flushes cover the old image until this has succeeded, here or
        // later.
        if let Err(e) = disk.end_old().await {
            executor::limited!(warn, "{}: cannot finish {} after the switch: {e}", disk.name(), old.name());
        }
        drop(claim);
        Switched { blackout }
    }
}
