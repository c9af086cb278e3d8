//! Simulated devices by name, near and far: what an image is opened from when a migration is simulated.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use async_trait::async_trait;

use super::device::{Opened, SimDevice};
use super::file::SimFile;
use super::link::{Far, SimLink};
use crate::storage::{Opener, Source, Storage};
use crate::{Error, ErrorKind, Result};

/// See the module.
#[derive(Default)]
pub struct SimHosts {
    names: RefCell<BTreeMap<String, Rc<dyn Storage>>>,
}

impl SimHosts {
    /// Without any device.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    fn add(&self, name: &str, storage: Rc<dyn Storage>) -> Rc<dyn Storage> {
        self.names.borrow_mut().insert(name.to_owned(), storage.clone());
        storage
    }

    /// Adds a device under its name.
    pub fn add_near(&self, device: &Rc<SimDevice>) -> Rc<dyn Storage> {
        let opened = Opened::new(device);
        let name = opened.name().to_owned();
        self.add(&name, opened)
    }

    /// Adds a device behind a link, under this name.
    pub fn add_far(&self, name: &str, link: &Rc<SimLink>, device: &Rc<SimDevice>) -> Rc<dyn Storage> {
        let len = Opened::new(device).len();
        self.add(name, Far::new(name, link, device, len))
    }

    /// Adds a small file with this content.
    pub fn add_file(&self, name: &str, content: Vec<u8>) {
        self.add(name, SimFile::new(name, content));
    }
}

#[async_trait(?Send)]
impl Opener for SimHosts {
    async fn open(&self, name: &str, _writable: bool) -> Result<Rc<dyn Storage>> {
        let found = self.names.borrow().get(name).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{name}: no such simulated device")))
    }

    async fn create(&self, name: &str) -> Result<Rc<dyn Storage>> {
        // A device is not created anew, and keeps its content.
        self.open(name, true).await
    }
}
