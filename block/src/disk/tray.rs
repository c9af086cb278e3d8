//! Removable media: a disk with a tray.
//!
//! | tray | medium | the guest sees | what changes it |
//! |---|---|---|---|
//! | closed | there | the medium | `open`; a switch |
//! | closed | none | an empty drive | `open` |
//! | open | there | an open tray | `close`; `remove` |
//! | open | none | an open tray | `close`; `insert` |
//!
//! Without a medium the disk's leaf is an image of no bytes, so that no other code has to handle this
//! case. A guest can lock the tray; then the monitor's command to open it only asks the guest to eject,
//! unless it is forced.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use async_trait::async_trait;

use crate::disk::Disk;
use crate::disk::switch::DEADLINE;
use crate::format::Kind;
use crate::image::chain;
use crate::image::node::Node;
use crate::storage::{Source, Storage};
use crate::{Buf, Error, ErrorKind, Result};

/// An event of a tray, for the guest's device and the monitor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TrayEvent {
    /// It opened.
    Opened,
    /// It closed; there may be another medium.
    Closed,
    /// An eject was requested while the tray is locked.
    EjectRequested,
}

type Callback = dyn Fn(TrayEvent);

/// A listener for a tray's events, called for as long as this is held.
pub type Listener = Rc<Callback>;

/// The tray of a removable drive.
#[derive(Default)]
pub struct Tray {
    open: Cell<bool>,
    locked: Cell<bool>,
    listeners: RefCell<Vec<Weak<Callback>>>,
}

impl Tray {
    /// Returns true if it is open.
    pub fn is_open(&self) -> bool {
        self.open.get()
    }

    /// Returns true if the guest locked it.
    pub fn is_locked(&self) -> bool {
        self.locked.get()
    }

    /// Locks or unlocks it, as the guest asks; a reset of its device unlocks it.
    pub fn set_locked(&self, locked: bool) {
        self.locked.set(locked);
    }

    /// Calls `listener` for each event, until it is dropped.
    pub fn listen(&self, listener: &Listener) {
        let mut listeners = self.listeners.borrow_mut();
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(Rc::downgrade(listener));
    }

    /// Opens or closes it. An open tray is not locked.
    pub fn set_open(&self, open: bool) {
        self.open.set(open);
        if open {
            self.locked.set(false);
        }
        self.notify(if open { TrayEvent::Opened } else { TrayEvent::Closed });
    }

    /// Returns the number of its listeners.
    pub(crate) fn listeners(&self) -> usize {
        self.listeners.borrow().iter().filter(|listener| listener.strong_count() > 0).count()
    }

    pub(crate) fn notify(&self, event: TrayEvent) {
        let listeners: Vec<_> = self.listeners.borrow().iter().filter_map(Weak::upgrade).collect();
        for listener in listeners {
            listener(event);
        }
    }
}

/// A medium to put into a drive.
#[derive(Clone, Debug)]
pub struct Medium {
    /// The image's file name.
    pub name: String,
    /// Its format. `None` means raw, but an image that looks like another format is refused.
    pub format: Option<Kind>,
}

/// Returns the leaf of a drive without a medium.
pub(crate) async fn no_medium() -> Result<Rc<Node>> {
    let storage: Rc<dyn Storage> = Rc::new(Nothing);
    let format = Kind::Raw.open(storage.clone(), false).await?;
    Ok(Node::new(format, storage, None, None, false))
}

impl Disk {
    /// Returns the tray.
    ///
    /// # Errors
    /// `Invalid` if the disk has none.
    pub fn tray(&self) -> Result<&Tray> {
        self.tray.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("Device '{}' is not removable", self.name()))
        })
    }

    /// Returns true if there is a medium, whether the tray is open or closed. A disk without a tray
    /// always has one.
    pub fn has_medium(&self) -> bool {
        !self.leaf().name().is_empty()
    }

    /// Opens the tray. If the guest has locked it, asks the guest to eject, and opens it anyway if
    /// `force` is set.
    ///
    /// # Errors
    /// `Locked` if the tray is locked and `force` is not set; `Invalid` without a tray.
    pub fn open_tray(&self, force: bool) -> Result<()> {
        let tray = self.tray()?;
        if tray.open.get() {
            return Ok(());
        }
        if tray.locked.get() {
            tray.notify(TrayEvent::EjectRequested);
            if !force {
                let text = format!(
                    "Device '{}' is locked and force was not specified, wait for tray to open and try again",
                    self.name()
                );
                return Err(Error::new(ErrorKind::Locked, text));
            }
        }
        tray.set_open(true);
        Ok(())
    }

    /// Closes the tray, with or without a medium.
    ///
    /// # Errors
    /// `Invalid` without a tray.
    pub fn close_tray(&self) -> Result<()> {
        let tray = self.tray()?;
        if tray.open.get() {
            tray.set_open(false);
        }
        Ok(())
    }

    /// Takes the medium out of the open tray.
    ///
    /// # Errors
    /// `Invalid` if the tray is closed; `InUse` and `TimedOut` as for a switch.
    pub async fn remove_medium(self: &Rc<Self>) -> Result<()> {
        self.check_tray_open()?;
        if self.has_medium() {
            self.put(no_medium().await?).await?;
        }
        Ok(())
    }

    /// Changes the medium: opens the new one, opens the tray, exchanges them and closes the tray.
    /// Without `notify` the tray does not move, and the guest is not notified. After an error before the
    /// exchange, the old medium is still in the drive.
    ///
    /// # Errors
    /// Errors of opening the image; `Locked` as for [`Disk::open_tray`]; `InUse` and `TimedOut` as for a
    /// switch.
    pub async fn change_medium(self: &Rc<Self>, medium: &Medium, force: bool, notify: bool) -> Result<()> {
        let tray = self.tray()?;
        let leaf = self.open_medium(medium).await?;
        if notify {
            self.open_tray(force)?;
        }
        self.put(leaf).await?;
        if notify && tray.open.get() {
            self.close_tray()?;
        }
        Ok(())
    }

    fn check_tray_open(&self) -> Result<()> {
        if self.tray()?.is_open() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Invalid, format!("Tray of device '{}' is not open", self.name())))
    }

    /// Opens a medium for reading.
    async fn open_medium(&self, medium: &Medium) -> Result<Rc<Node>> {
        let format = match medium.format {
            Some(format) => format,
            None => {
                let probe = self.opener.open(&medium.name, false).await?;
                if let Some(kind) = Kind::probe(&*probe).await? {
                    let text = format!("{}: give a format: it looks like {kind}", medium.name);
                    return Err(Error::new(ErrorKind::Invalid, text));
                }
                Kind::Raw
            }
        };
        chain::open(&*self.opener, &medium.name, format, false).await
    }

    /// Drains the disk and exchanges the medium.
    async fn put(self: &Rc<Self>, leaf: Rc<Node>) -> Result<()> {
        let _claim = self.claim_whole("a change of its medium")?;
        let Some(_closed) = self.drain(DEADLINE).await else {
            let text = format!("{}: requests in flight did not end within {DEADLINE:?}", self.name());
            return Err(Error::new(ErrorKind::TimedOut, text));
        };
        // The old medium was not written, so there is nothing to finish.
        self.swap(leaf);
        self.announce_capacity();
        Ok(())
    }
}

/// The storage of an empty drive. Every image has a name, but not this one.
struct Nothing;

#[async_trait(?Send)]
impl Source for Nothing {
    fn name(&self) -> &str {
        ""
    }

    fn len(&self) -> u64 {
        0
    }

    async fn read(&self, _offset: u64, buf: Buf) -> Result<()> {
        buf.zero();
        Ok(())
    }
}

impl Storage for Nothing {}
