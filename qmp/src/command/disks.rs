//! Disks, their images and counters.

use super::prelude::*;

commands! {
    /// Disks, their images and counters.
    DiskCommands:

    /// Switches a disk's image or changes a drive's medium while the guest runs, or sets the password of
    /// the VNC server.
    "change" change: Change {
        /// The drive, or `vnc`.
        device: String,
        /// The file of the new image, or `password` for `vnc`.
        target: String,
        /// The format (drives), or the password (`vnc`).
        arg: Option<String>,
        /// The format of the new image.
        format: Option<String>,
        /// False to hide the switch from the guest; true unless given.
        notify: Option<bool>,
    } -> Empty
        as {
            text "change [-n] device target [format]": "switch a disk's image (-n: do not notify the guest); or: change vnc password [text]",
            hmp::change => hmp::nothing
        };

    /// Sets a disk's size while the guest runs.
    "block_resize" block_resize: BlockResize {
        /// The disk.
        device: Option<String>,
        /// The node.
        node_name as "node-name": Option<String>,
        /// The new size in bytes.
        size: i64,
    } -> Empty;

    /// Lists drives and their images.
    "query-block" query_block: QueryBlock {} -> Vec<BlockInfo>
        as { info "block": |_| Ok(QueryBlock {}) => hmp::blocks };

    /// Lists the images of all drives' chains.
    "query-named-block-nodes" query_named_block_nodes: QueryNamedBlockNodes {
        /// True to leave the images behind each one out of its description.
        flat: Option<bool>,
    } -> Vec<BlockDeviceInfo>;

    /// Returns counters of the drives' requests and jobs.
    "query-blockstats" query_blockstats: QueryBlockstats {
        /// True to list all images instead of drives.
        query_nodes as "query-nodes": Option<bool>,
    } -> Vec<BlockStats>;
}
