//! Overlays and transactions: QAPI's `BlockdevSnapshotSync` and `TransactionAction`.

use crate::command::{BlockdevSnapshotSync, Change};
use crate::schema::{qapi_enum, qapi_struct, qapi_union};

qapi_enum! {
    /// Where an overlay's file comes from.
    enum NewImageMode {
        /// It exists, and its backing file is the running image.
        Existing = "existing",
        /// It is created, and records the running image by an absolute path.
        AbsolutePaths = "absolute-paths",
    }

    /// What becomes of a transaction's jobs when one fails.
    enum ActionCompletionMode {
        /// The others go on.
        Individual = "individual",
        /// All are cancelled.
        Grouped = "grouped",
    }

    /// What becomes of a read-only flag when a medium changes.
    enum BlockdevChangeReadOnlyMode {
        /// It stays.
        Retain = "retain",
        /// The medium is read-only.
        ReadOnly = "read-only",
        /// The medium is written.
        ReadWrite = "read-write",
    }
}

qapi_struct! {
    /// What holds for a whole transaction.
    struct TransactionProperties {
        /// What becomes of its jobs.
        completion_mode as "completion-mode": Option<ActionCompletionMode>,
    }

    /// No data.
    struct Abort {}
}

qapi_union! {
    /// A step of a transaction.
    union TransactionAction {
        /// Fails, and the transaction with it: for tests.
        Abort(Abort) = "abort",
        /// As the command `blockdev-snapshot-sync`.
        BlockdevSnapshotSync(BlockdevSnapshotSync) = "blockdev-snapshot-sync",
        /// As the command `change` of a disk. Our own.
        Change(Change) = "x-change",
    }
}
