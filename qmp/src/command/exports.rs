//! The NBD server and its exports.

use super::prelude::*;

commands! {
    /// The NBD server and its exports.
    ExportCommands:

    /// Starts the NBD server.
    "nbd-server-start" nbd_server_start: NbdServerStart {
        /// The address to listen on.
        addr: SocketAddressLegacy,
        /// The most clients at a time; 0: any number. 100 unless given.
        max_connections as "max-connections": Option<u32>,
        /// Seconds within which a client must choose an export; 0: no limit. 10 unless given.
        handshake_max_seconds as "handshake-max-seconds": Option<u32>,
        /// The id of a `--tls-creds`; with it, clients must begin with TLS.
        tls_creds as "tls-creds": Option<String>,
    } -> Empty;

    /// Exports a disk by the NBD server.
    "nbd-server-add" nbd_server_add: NbdServerAdd {
        /// The export's name and id; the disk's unless given.
        name: Option<String>,
        /// A description for clients.
        description: Option<String>,
        /// The disk.
        device: String,
        /// True to let clients write; false unless given. A read-only disk is never writable.
        writable: Option<bool>,
    } -> Empty;

    /// Ends an export of the NBD server.
    "nbd-server-remove" nbd_server_remove: NbdServerRemove {
        /// Its id.
        name: String,
        /// The treatment of its clients; `safe` unless given.
        mode: Option<BlockExportRemoveMode>,
    } -> Empty;

    /// Stops the NBD server and ends its exports.
    "nbd-server-stop" nbd_server_stop: NbdServerStop {} -> Empty;

    /// Exports a disk.
    "block-export-add" block_export_add: BlockExportAdd {
        /// The type of the export.
        kind as "type": BlockExportType,
        /// The export's id.
        id: String,
        /// The disk.
        node_name as "node-name": String,
        /// True to let clients write; false unless given.
        writable: Option<bool>,
        /// True to flush each write before it is answered; false unless given.
        writethrough: Option<bool>,
        /// The name that clients ask for; the disk's unless given.
        name: Option<String>,
        /// A description for clients.
        description: Option<String>,
    } -> Empty;

    /// Ends an export.
    "block-export-del" block_export_del: BlockExportDel {
        /// Its id.
        id: String,
        /// The treatment of its clients; `safe` unless given.
        mode: Option<BlockExportRemoveMode>,
    } -> Empty;

    /// Lists exports, the newest first.
    "query-block-exports" query_block_exports: QueryBlockExports {} -> Vec<BlockExportInfo>;
}
