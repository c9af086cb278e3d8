//! Removable drives: their trays and media.

use std::rc::Rc;

use block::switch::Target;
use block::tray::Medium;
use block::{Disk, ErrorKind};
use qmp::command::{BlockdevChangeMedium, BlockdevCloseTray, BlockdevOpenTray, Change, Eject, TrayCommands};
use qmp::types::*;
use qmp::{Error, Result};

use super::disks::target;
use super::{Control, generic, switch_error};
use crate::drive::Drive;

impl Control {
    /// Finds the drive that a command names by device or by the id of the guest's device, which are the same
    /// here.
    fn drive_or_id(&self, device: Option<&str>, id: Option<&str>) -> Result<&Rc<Drive>> {
        match (device, id) {
            (Some(name), None) | (None, Some(name)) => self.drive(name),
            _ => Err(Error::generic("Need exactly one of 'device' and 'id'")),
        }
    }

    /// Finds a removable drive.
    fn removable(&self, device: Option<&str>, id: Option<&str>) -> Result<&Rc<Drive>> {
        let drive = self.drive_or_id(device, id)?;
        if drive.options.cdrom {
            return Ok(drive);
        }
        Err(Error::generic(format!("Device '{}' is not removable", drive.options.id)))
    }

    /// Runs `change` of a removable drive.
    pub(super) async fn change_removable(&self, drive: &Drive, arguments: Change) -> Result<Empty> {
        let Target { name, format, notify } = target(arguments)?;
        let changed = self.put(drive, Medium { name, format }, false, notify);
        changed.await.map_err(switch_error)?;
        Ok(Empty {})
    }

    async fn put(&self, drive: &Drive, medium: Medium, force: bool, notify: bool) -> block::Result<()> {
        let change = move |disk: Rc<Disk>| async move { disk.change_medium(&medium, force, notify).await };
        drive.handle.call(change).await
    }
}

impl TrayCommands for Control {
    async fn eject(&self, arguments: Eject) -> Result<Empty> {
        let drive = self.removable(arguments.device.as_deref(), arguments.id.as_deref())?;
        let force = arguments.force.unwrap_or(false);
        let eject = drive.handle.call(move |disk| async move {
            disk.open_tray(force)?;
            disk.remove_medium().await
        });
        eject.await.map_err(generic)?;
        Ok(Empty {})
    }

    async fn blockdev_open_tray(&self, arguments: BlockdevOpenTray) -> Result<Empty> {
        let drive = self.removable(arguments.device.as_deref(), arguments.id.as_deref())?;
        let force = arguments.force.unwrap_or(false);
        let open = drive.handle.call(move |disk| async move {
            match disk.open_tray(force) {
                // The guest was asked to open the tray, and the event follows when it does.
                Err(e) if e.kind() == ErrorKind::Locked => Ok(()),
                other => other,
            }
        });
        open.await.map_err(generic)?;
        Ok(Empty {})
    }

    async fn blockdev_close_tray(&self, arguments: BlockdevCloseTray) -> Result<Empty> {
        let drive = self.removable(arguments.device.as_deref(), arguments.id.as_deref())?;
        drive.handle.call(|disk| async move { disk.close_tray() }).await.map_err(generic)?;
        Ok(Empty {})
    }

    async fn blockdev_change_medium(&self, arguments: BlockdevChangeMedium) -> Result<Empty> {
        let drive = self.removable(arguments.device.as_deref(), arguments.id.as_deref())?;
        if arguments.read_only_mode == Some(BlockdevChangeReadOnlyMode::ReadWrite) {
            let text = format!("Device '{}' is read-only", drive.options.id);
            return Err(Error::generic(text));
        }
        let force = arguments.force.unwrap_or(false);
        let format = arguments.format.map(|name| name.parse()).transpose().map_err(generic)?;
        let medium = Medium { name: arguments.filename, format };
        self.put(drive, medium, force, true).await.map_err(generic)?;
        Ok(Empty {})
    }
}
