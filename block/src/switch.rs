//! The switch: another image under a running disk, by prepare and then commit or abort.
//!
//! Everything that can fail or take long is in *prepare*, while the guest runs; *commit* closes the
//! gate, waits for the requests inside, swaps a pointer and opens the gate again. Dropping what was
//! prepared is the abort: nothing of the disk was touched.

use std::rc::Rc;
use std::time::Duration;

use crate::chain;
use crate::disk::{Claim, Closed, Disk, READ_ONLY};
use crate::format::{Kind, Summary};
use crate::image::{self, Create};
use crate::node::Node;
use crate::{Error, ErrorKind, Result};

/// How long a switch waits for requests in flight before it gives up and lets the guest go on.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// What a disk is switched to.
#[derive(Clone, Debug)]
pub struct Target {
    /// The image's file name.
    pub name: String,
    /// Its format. Without one, only an image whose backing file is the running one is accepted.
    pub format: Option<Kind>,
    /// Whether the guest is told. If not, the sizes must be equal.
    pub notify: bool,
}

/// An image over the running one.
#[derive(Clone, Debug)]
pub struct Overlay {
    /// Its file name.
    pub name: String,
    /// Its format: one that has backing files.
    pub format: Kind,
    /// Whether it is there already, and is not to be created.
    pub existing: bool,
    /// Its node name; one of ours unless given.
    pub node_name: Option<String>,
    /// Whether the guest is told.
    pub notify: bool,
}

/// A switch that is ready to be committed.
pub struct Prepared {
    disk: Rc<Disk>,
    leaf: Rc<Node>,
    notify: bool,
    claim: Claim,
}

/// A switch that was done.
#[derive(Clone, Copy, Debug)]
pub struct Switched {
    /// For how long the gate was closed: no request waited longer because of the switch.
    pub blackout: Duration,
}

impl Disk {
    /// Opens the target and makes everything ready. On any error the disk is as it was.
    ///
    /// # Errors
    /// `InUse` where a job or another switch has the disk; what opening the target says; `Invalid`
    /// where its size or format does not fit.
    pub async fn prepare_switch(self: &Rc<Self>, target: &Target) -> Result<Prepared> {
        let claim = self.claim("a switch")?;
        self.prepare(target, claim).await
    }

    /// Creates an image over the running one, or takes one that exists, and makes everything ready to
    /// switch to it. On any error the disk is as it was; an image that was created stays.
    ///
    /// # Errors
    /// As [`Disk::prepare_switch`]; `Unsupported` for a format that has no backing file, and for a
    /// read-only disk.
    pub async fn prepare_overlay(self: &Rc<Self>, overlay: &Overlay) -> Result<Prepared> {
        let claim = self.claim("a switch")?;
        if self.read_only() {
            return Err(Error::new(ErrorKind::Unsupported, READ_ONLY));
        }
        if overlay.format == Kind::Raw {
            let text = "Backing file not supported for file format 'raw'";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let leaf = self.leaf();
        if !overlay.existing {
            let backing = (self.opener.absolute(leaf.name())?, leaf.kind());
            let wish = Create { size: Some(leaf.size()), backing: Some(backing), ..Create::default() };
            let images = Some(leaf.depth());
            image::create_over(&*self.opener, &overlay.name, overlay.format, &wish, images).await?;
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
        // Opened for reading first: nothing of the target is changed, and the disk's own images are found
        // out before their locks would refuse it.
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

    /// A guest may have written the header of an image whose format nobody says: only an image that
    /// records the running one as its backing file is taken for what it looks like.
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
    /// The image that the disk is to be switched to.
    pub fn leaf(&self) -> &Node {
        &self.leaf
    }

    /// Closes the disk's gate and waits for the requests inside: from here on the switch cannot fail.
    ///
    /// # Errors
    /// `TimedOut` where the requests in flight do not end within `deadline`, `InUse` where the disk is being
    /// closed; the disk runs on as before.
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

    /// Does the switch. After an error the disk runs on as before.
    ///
    /// # Errors
    /// As [`Prepared::close`].
    pub async fn commit(self, deadline: Duration) -> Result<Switched> {
        Ok(self.close(deadline).await?.commit().await)
    }
}

/// A switch whose disk is drained, with its gate closed. Dropping it opens the gate, and nothing happened.
pub struct Ready {
    prepared: Prepared,
    closed: Closed,
    started: Duration,
}

impl Ready {
    /// Swaps the images, opens the gate, and then ends the old image's life as a leaf. What fails of that is
    /// logged: the switch is done, the guest's flushes meet the same error, and the next command that has the
    /// disk tries again.
    pub async fn commit(self) -> Switched {
        let Ready { prepared: Prepared { disk, leaf, notify, claim }, closed, started } = self;
        let resized = leaf.size() != disk.size();
        let old = disk.swap(leaf);
        drop(closed);
        let blackout = executor::now() - started;
        if notify || resized {
            disk.announce_capacity();
        }
        // With the guest running again: what it wrote before belongs to its flushes until this is
        // through, whoever does it first.
        if let Err(e) = disk.end_old().await {
            executor::limited!(warn, "{}: {} after the switch: {e}", disk.name(), old.name());
        }
        drop(claim);
        Switched { blackout }
    }
}
