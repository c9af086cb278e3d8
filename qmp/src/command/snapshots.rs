//! Overlays, and several disks at once.

use super::prelude::*;

commands! {
    /// Overlays, and several disks at once.
    SnapshotCommands:

    /// Creates an overlay of a disk's leaf and switches the disk to it.
    "blockdev-snapshot-sync" blockdev_snapshot_sync: BlockdevSnapshotSync {
        /// The disk.
        device: Option<String>,
        /// The node name of its leaf.
        node_name as "node-name": Option<String>,
        /// The file of the overlay.
        snapshot_file as "snapshot-file": String,
        /// The node name of the overlay.
        snapshot_node_name as "snapshot-node-name": Option<String>,
        /// The format of the overlay; qcow2 unless given.
        format: Option<String>,
        /// The source of the overlay's file; it is created unless given.
        mode: Option<NewImageMode>,
    } -> Empty;

    /// Does several things to several disks, all at one point in time, or does nothing.
    "transaction" transaction: Transaction {
        /// The steps.
        actions: Vec<TransactionAction>,
        /// Properties of the whole transaction.
        properties: Option<TransactionProperties>,
    } -> Empty;

    /// Creates an overlay of a disk's leaf, switches to it and streams everything into it.
    "x-live-copy" x_live_copy: XLiveCopy {
        /// The disk.
        device: String,
        /// The file of the overlay.
        target: String,
        /// Its format.
        format: String,
        /// The job's id; the disk's name unless given.
        job_id as "job-id": Option<String>,
        /// The job's limit in bytes per second; 0: none.
        speed: Option<i64>,
        /// False to hide the switch from the guest; true unless given.
        notify: Option<bool>,
    } -> Empty;
}
