//! The handlers of the monitor's commands: here what they share; each file below has a subject's commands.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use block::ErrorKind;
use block::job::{Info, Status};
use executor::sync::Event;
use qmp::types::{ChardevInfo, ShutdownCause};
use qmp::{Error, ErrorClass, Events, Result};

use super::drive::Drive;
use super::exports::Exports;
use super::io_errors::IoErrors;
use super::reports::Reports;
use super::screen::Screen;
use vmm::Machine;

mod blocks;
mod copies;
mod disks;
mod exports;
mod failures;
pub(super) mod flights;
pub(super) mod job_info;
pub(super) mod jobs;
mod machine;
mod nodes;
pub(super) mod screen;
mod snapshots;
mod stats;
mod tray;

/// The reason for the program's end.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// A client, the user or a signal asked for it.
    Quit(ShutdownCause),
    /// The guest ended itself.
    Guest(ShutdownCause),
    /// Something went wrong in the guest: an error in one line.
    Failed(String),
    /// Something went wrong in this program: an error in one line.
    Broken(String),
}

/// The state that the monitor's commands work on.
pub(super) struct Control {
    pub drives: Vec<Rc<Drive>>,
    pub machine: Option<Rc<Machine>>,
    pub screen: Option<Rc<Screen>>,
    pub events: Events,
    pub exports: Exports,
    /// The images that `blockdev-add` has described.
    nodes: nodes::Nodes,
    /// The lines to the guest.
    pub chardevs: RefCell<Vec<ChardevInfo>>,
    reports: Rc<Reports>,
    /// Without a machine: true after `stop`, until `cont`.
    stopped: Cell<bool>,
    /// Errors of the guest's disks that were not reported yet.
    io_errors: Arc<IoErrors>,
    /// True if such an error has stopped the machine.
    io_stopped: Cell<bool>,
    /// True if clients think that the machine runs: `STOP` and `RESUME` alternate.
    reported_running: Cell<bool>,
    end: RefCell<Option<End>>,
    ended: Event,
}

/// Converts an error to the generic class.
fn generic(e: block::Error) -> Error {
    Error::generic(e.to_string())
}

/// Converts an error to the classes that the commands of 2011 use.
fn classed(e: block::Error) -> Error {
    let class = match e.kind() {
        ErrorKind::InUse => ErrorClass::DeviceInUse,
        ErrorKind::NotActive => ErrorClass::DeviceNotActive,
        ErrorKind::Unsupported => ErrorClass::NotSupported,
        _ => ErrorClass::GenericError,
    };
    Error::new(class, e.to_string())
}

/// Converts an error of a switch, which says so if the disk is in use.
fn switch_error(e: block::Error) -> Error {
    if e.kind() == ErrorKind::InUse { classed(e) } else { generic(e) }
}

/// Converts the limit of a job: bytes per second, and 0 for none.
fn speed(speed: Option<i64>) -> Result<u64> {
    u64::try_from(speed.unwrap_or(0))
        .map_err(|_| Error::generic("Parameter 'speed' expects a non-negative value"))
}

/// Fails, in QEMU's words, if `name` cannot be a node's name.
fn check_node_name(name: &str) -> std::result::Result<(), String> {
    if !qmp::id::is_well_formed(name) {
        return Err(format!("Invalid node-name: '{name}'"));
    }
    if !qmp::id::is_node_name(name) {
        return Err("Node name too long".into());
    }
    Ok(())
}

/// QEMU's error for a name that no drive and no image has.
fn no_device_or_node(device: &str, node: &str) -> Error {
    Error::generic(format!("Cannot find device='{device}' nor node-name='{node}'"))
}

impl Control {
    pub(super) fn new(
        drives: Vec<Rc<Drive>>,
        machine: Option<Rc<Machine>>,
        screen: Option<Rc<Screen>>,
        reports: Rc<Reports>,
        io_errors: Arc<IoErrors>,
    ) -> Self {
        Control {
            drives,
            machine,
            screen,
            nodes: nodes::Nodes::default(),
            chardevs: RefCell::default(),
            exports: Exports::new(reports.events.clone()),
            events: reports.events.clone(),
            reports,
            stopped: Cell::new(false),
            io_errors,
            io_stopped: Cell::new(false),
            reported_running: Cell::new(true),
            end: RefCell::default(),
            ended: Event::new(),
        }
    }

    /// Ends the program. Only the first reason counts.
    pub(super) fn end(&self, end: End) {
        self.end.borrow_mut().get_or_insert(end);
        self.ended.notify();
    }

    /// Waits for [`Control::end`] and returns the reason.
    pub(super) async fn ended(&self) -> End {
        loop {
            if let Some(end) = self.end.borrow().clone() {
                return end;
            }
            self.ended.wait().await;
        }
    }

    fn drive(&self, device: &str) -> Result<&Rc<Drive>> {
        let found = self.drives.iter().find(|drive| drive.options.id == device);
        found.ok_or_else(|| Error::device_not_found(device))
    }

    /// Finds the drive of a command that takes a device's name or the node name of a leaf.
    ///
    /// # Errors
    /// Fails in QEMU's words if there is no such drive, if it has no medium, or if the image is not a leaf.
    pub(super) async fn find(&self, device: Option<&str>, node: Option<&str>) -> Result<&Rc<Drive>> {
        let (device, node) = (device.unwrap_or_default(), node.unwrap_or_default());
        if let Ok(drive) = self.drive(device).or_else(|_| self.drive(node)) {
            if node_names(drive).await?.is_empty() {
                return Err(Error::generic(format!("Device '{}' has no medium", drive.options.id)));
            }
            return Ok(drive);
        }
        match self.node(node).await? {
            Some((drive, None)) => Ok(drive),
            Some((drive, Some(above))) => {
                let jobs = drive.handle.call(|disk| async move { Ok(disk.jobs()) }).await.map_err(generic)?;
                let active = |job: &&Info| job.status != Status::Concluded;
                let why = match jobs.iter().find(active) {
                    Some(job) => format!("block device is in use by block job: {}", job.kind.name()),
                    None => format!("node is used as backing hd of '{above}'"),
                };
                Err(Error::generic(format!("Node '{node}' is busy: {why}")))
            }
            None => Err(no_device_or_node(device, node)),
        }
    }

    /// Finds the drive that has an image of this node name in its chain. If that image is not the leaf, also
    /// returns the name of what is above it: a drive or an image.
    pub(super) async fn node(&self, name: &str) -> Result<Option<(&Rc<Drive>, Option<String>)>> {
        for drive in &self.drives {
            let names = node_names(drive).await?;
            if let Some(depth) = names.iter().position(|node| node == name) {
                let above = match depth {
                    0 => None,
                    1 => Some(drive.options.id.clone()),
                    _ => names.into_iter().nth(depth - 1),
                };
                return Ok(Some((drive, above)));
            }
        }
        Ok(None)
    }

    /// Returns true if an image has that node name, also one that is only described, or a drive has that id.
    pub(super) async fn is_named(&self, name: &str) -> Result<bool> {
        if self.nodes.find(name).is_some() {
            return Ok(true);
        }
        for drive in &self.drives {
            if drive.options.id == name || node_names(drive).await?.iter().any(|node| node == name) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Returns the node names of a drive's chain, the leaf's first.
async fn node_names(drive: &Drive) -> Result<Vec<String>> {
    let call = drive.handle.call(|disk| async move {
        Ok(blocks::chain(&disk).filter(|_| disk.has_medium()).map(|node| node.node_name()).collect())
    });
    call.await.map_err(generic)
}
