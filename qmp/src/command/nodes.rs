//! Images that a client describes for later use.

use super::prelude::*;

commands! {
    /// Images that a client describes for later use.
    NodeCommands:

    /// Describes an image, or the file of one, under a node name. A job opens it.
    "blockdev-add" blockdev_add: BlockdevAdd {
        /// The format, or the protocol, of the node.
        driver: BlockdevDriver,
        /// Its name; only a node inside of another's description may have none.
        node_name as "node-name": Option<String>,
        /// The treatment of discards, which has no effect: that is a property of the disk.
        discard: Option<BlockdevDiscardOptions>,
        /// The caching by the host; that of the disk that uses it unless given.
        cache: Option<BlockdevCacheOptions>,
        /// True for a node that must not be written; false unless given.
        read_only as "read-only": Option<bool>,
        /// True to let `read-only` give way where a node cannot be written; has no effect, since a job
        /// writes to its target.
        auto_read_only as "auto-read-only": Option<bool>,
        /// The treatment of zeros that are written: only `off`.
        detect_zeroes as "detect-zeroes": Option<DetectZeroes>,
        /// Formats: the node of the image's file.
        file: Option<BlockdevRef>,
        /// qcow2 and QED: `null` for an image that records no backing file.
        backing: Option<BlockdevRefOrNull>,
        /// `file` and `host_device`: the path.
        filename: Option<String>,
        /// `nbd`: the server.
        server: Option<SocketAddress>,
        /// `nbd`: the name of the export; empty unless given.
        export: Option<String>,
    } -> Empty;

    /// Removes the description of an image.
    "blockdev-del" blockdev_del: BlockdevDel {
        /// The node.
        node_name as "node-name": String,
    } -> Empty;
}
