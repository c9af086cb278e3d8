//! Removable drives.

use super::prelude::*;

commands! {
    /// Removable drives.
    TrayCommands:

    /// Opens a removable drive's tray and takes its medium out.
    "eject" eject: Eject {
        /// The drive.
        device: Option<String>,
        /// The same, by the id of the guest's device.
        id: Option<String>,
        /// True to do it even if the guest has the tray locked.
        force: Option<bool>,
    } -> Empty
        as {
            text "eject [-f] device": "take a removable drive's medium out (-f: also while the guest has it locked)",
            hmp::eject => hmp::nothing
        };

    /// Opens a removable drive's tray; if the guest has it locked, asks the guest.
    "blockdev-open-tray" blockdev_open_tray: BlockdevOpenTray {
        /// The drive.
        device: Option<String>,
        /// The same, by the id of the guest's device.
        id: Option<String>,
        /// True to do it even if the guest has the tray locked.
        force: Option<bool>,
    } -> Empty;

    /// Closes a removable drive's tray.
    "blockdev-close-tray" blockdev_close_tray: BlockdevCloseTray {
        /// The drive.
        device: Option<String>,
        /// The same, by the id of the guest's device.
        id: Option<String>,
    } -> Empty;

    /// Changes a removable drive's medium.
    "blockdev-change-medium" blockdev_change_medium: BlockdevChangeMedium {
        /// The drive.
        device: Option<String>,
        /// The same, by the id of the guest's device.
        id: Option<String>,
        /// The file of the new medium.
        filename: String,
        /// Its format; raw unless given.
        format: Option<String>,
        /// True to do it even if the guest has the tray locked.
        force: Option<bool>,
        /// Selects whether the new medium is writable; that of a CD-ROM never is.
        read_only_mode as "read-only-mode": Option<BlockdevChangeReadOnlyMode>,
    } -> Empty;
}
