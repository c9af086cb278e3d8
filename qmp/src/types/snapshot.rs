//! Overlays and transactions: QAPI's `BlockdevSnapshotSync` and `TransactionAction`.

use crate::command::{BlockdevBackup, BlockdevSnapshotSync, Change, DriveBackup};
use crate::schema::{qapi_enum, qapi_struct, qapi_union};

qapi_enum! {
    /// The source of an overlay's file.
    enum NewImageMode {
        /// It exists, and its backing file is the disk's leaf.
        Existing = "existing",
        /// It is created, and records the disk's leaf by an absolute path.
        AbsolutePaths = "absolute-paths",
    }

    /// The treatment of a transaction's jobs when one fails.
    enum ActionCompletionMode {
        /// The others go on.
        Individual = "individual",
        /// All are cancelled.
        Grouped = "grouped",
    }

    /// The treatment of the read-only flag when a medium changes.
    enum BlockdevChangeReadOnlyMode {
        /// It stays.
        Retain = "retain",
        /// The medium is read-only.
        ReadOnly = "read-only",
        /// The medium is writable.
        ReadWrite = "read-write",
    }
}

qapi_struct! {
    /// Properties of a whole transaction.
    struct TransactionProperties {
        /// The treatment of its jobs when one fails.
        completion_mode as "completion-mode": Option<ActionCompletionMode>,
    }

    /// No data.
    struct Abort {}
}

qapi_union! {
    /// A step of a transaction.
    union TransactionAction {
        /// Makes the transaction fail: for tests.
        Abort(Abort) = "abort",
        /// Like the command `blockdev-snapshot-sync`.
        BlockdevSnapshotSync(BlockdevSnapshotSync) = "blockdev-snapshot-sync",
        /// Like the command `blockdev-backup`.
        BlockdevBackup(BlockdevBackup) = "blockdev-backup",
        /// Like the command `drive-backup`.
        DriveBackup(DriveBackup) = "drive-backup",
        /// Like the command `change` of a disk. Our own.
        Change(Change) = "x-change",
    }
}
