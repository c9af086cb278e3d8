//! The events. Each is one entry here. Their data is QEMU 10.0's, except for `BLOCK_STREAM_COMPLETED`
//! (2011), `BLOCK_SWITCHED` and `EVENTS_DROPPED` (ours), and members whose names begin with `x-`.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::schema::{Qapi, Type, qapi_struct};
use crate::types::*;

/// An event's description.
pub struct EventInfo {
    /// The name on the wire.
    pub name: &'static str,
    /// A description in one line.
    pub doc: &'static str,
    /// Its data: always an object.
    pub data: fn() -> Type,
}

/// An event's data as a type, which names the event.
pub trait Event: Serialize + DeserializeOwned + Qapi {
    /// The name on the wire.
    const NAME: &'static str;
}

macro_rules! events {
    ($($(#[doc = $doc:literal])* $wire:literal $name:ident { $($members:tt)* })*) => {
        qapi_struct! { $($(#[doc = $doc])* struct $name { $($members)* })* }

        $(impl Event for $name {
            const NAME: &'static str = $wire;
        })*

        /// All events, in the order of their definition.
        pub const EVENTS: &[EventInfo] = &[$(EventInfo {
            name: $wire,
            doc: concat!($($doc),*).trim_ascii(),
            data: <$name as Qapi>::describe,
        }),*];
    };
}

events! {
    /// A background stream of `block_stream` ended; its result is on stable storage.
    "BLOCK_STREAM_COMPLETED" BlockStreamCompleted {
        /// The disk.
        device: String,
        /// Its size in bytes.
        len: u64,
        /// The offset up to which the disk is streamed.
        offset: u64,
        /// The reason for a failure.
        error: Option<String>,
    }

    /// A disk was switched to another image. Our own event: it follows `change` and `x-live-copy`; after
    /// other commands it is sent only to clients that asked for it by `x-events`.
    "BLOCK_SWITCHED" BlockSwitched {
        /// The disk.
        device: String,
        /// The file of its new image.
        file: String,
        /// The time during which the disk took no requests, in microseconds.
        blackout as "blackout-us": u64,
    }

    /// A job ended, with success or failure.
    "BLOCK_JOB_COMPLETED" BlockJobCompleted {
        /// The kind of job.
        kind as "type": JobType,
        /// Its id.
        device: String,
        /// The value of `offset` at the end.
        len: u64,
        /// The progress so far.
        offset: u64,
        /// Its limit in bytes per second; 0: none.
        speed: u64,
        /// The reason for a failure, in the C library's words.
        error: Option<String>,
        /// The same in full: the operation that failed, and where.
        detail as "x-error": Option<String>,
    }

    /// A job was cancelled.
    "BLOCK_JOB_CANCELLED" BlockJobCancelled {
        /// The kind of job.
        kind as "type": JobType,
        /// Its id.
        device: String,
        /// The value of `offset` at the end.
        len: u64,
        /// The progress so far.
        offset: u64,
        /// Its limit in bytes per second; 0: none.
        speed: u64,
    }

    /// A job met an I/O error.
    "BLOCK_JOB_ERROR" BlockJobError {
        /// Its id.
        device: String,
        /// The operation that failed.
        operation: IoOperationType,
        /// The reaction to the error.
        action: BlockErrorAction,
        /// The error in full.
        detail as "x-error": Option<String>,
    }

    /// A job can be completed.
    "BLOCK_JOB_READY" BlockJobReady {
        /// The kind of job.
        kind as "type": JobType,
        /// Its id.
        device: String,
        /// The value of `offset` at the end.
        len: u64,
        /// The progress so far.
        offset: u64,
        /// Its limit in bytes per second; 0: none.
        speed: u64,
    }

    /// A job waits for its finalization.
    "BLOCK_JOB_PENDING" BlockJobPending {
        /// The kind of job.
        kind as "type": JobType,
        /// Its id.
        id: String,
    }

    /// A job's state changed.
    "JOB_STATUS_CHANGE" JobStatusChange {
        /// Its id.
        id: String,
        /// Its new state.
        status: JobStatus,
    }

    /// An I/O request of the guest failed.
    "BLOCK_IO_ERROR" BlockIoError {
        /// The path of its guest device: empty, since there is no tree of devices to look it up in.
        qom_path as "qom-path": String,
        /// The disk.
        device: String,
        /// The node.
        node_name as "node-name": Option<String>,
        /// The operation that failed.
        operation: IoOperationType,
        /// The reaction to the error.
        action: BlockErrorAction,
        /// True if no space is left.
        nospace: Option<bool>,
        /// The reason, in the C library's words.
        reason: String,
        /// The same in full: the operation that failed, and where.
        detail as "x-reason": Option<String>,
    }

    /// An export is gone.
    "BLOCK_EXPORT_DELETED" BlockExportDeleted {
        /// Its id.
        id: String,
    }

    /// A tray opened or closed.
    "DEVICE_TRAY_MOVED" DeviceTrayMoved {
        /// The drive.
        device: String,
        /// The path of its guest device.
        id: String,
        /// True if it is open now.
        tray_open as "tray-open": bool,
    }

    /// The machine stopped.
    "STOP" Stopped {}

    /// The machine was resumed.
    "RESUME" Resumed {}

    /// The machine shuts down.
    "SHUTDOWN" Shutdown {
        /// True if the guest asked for it.
        guest: bool,
        /// The cause.
        reason: ShutdownCause,
    }

    /// The machine was reset.
    "RESET" Reset {
        /// True if the guest asked for it.
        guest: bool,
        /// The cause.
        reason: ShutdownCause,
    }

    /// The guest was asked to power off.
    "POWERDOWN" Powerdown {}

    /// Events were dropped because this client did not read; this event stands in their place.
    "EVENTS_DROPPED" EventsDropped {
        /// The number of dropped events.
        count: u64,
    }

    /// A VNC client connected.
    "VNC_CONNECTED" VncConnected {
        /// The server's end.
        server: VncServerInfo,
        /// The client's end.
        client: VncBasicInfo,
    }

    /// A VNC client logged in, and sees the screen.
    "VNC_INITIALIZED" VncInitialized {
        /// The server's end.
        server: VncServerInfo,
        /// The client's end.
        client: VncClientInfo,
    }

    /// A VNC client is gone.
    "VNC_DISCONNECTED" VncDisconnected {
        /// The server's end.
        server: VncServerInfo,
        /// The client's end.
        client: VncClientInfo,
    }
}
