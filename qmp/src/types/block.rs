//! Drives and their images: QAPI's `BlockInfo` and what is in it.

use serde_json::Value;

use crate::schema::{qapi_enum, qapi_struct};

qapi_struct! {
    /// An entry of `query-block`: a drive.
    struct BlockInfo {
        /// The drive.
        device: String,
        /// The id of its guest device; absent without a guest.
        qdev: Option<String>,
        /// Kept for old clients: always `unknown`.
        kind as "type": String,
        /// True if its medium can be changed.
        removable: bool,
        /// True if the guest has locked the tray.
        locked: bool,
        /// The medium, if there is one.
        inserted: Option<BlockDeviceInfo>,
        /// True if the tray is open; absent without a tray.
        tray_open: Option<bool>,
        /// The I/O error that stopped the machine, if any; absent if no error of this drive may stop it.
        io_status as "io-status": Option<IoStatus>,
    }

    /// An image that is attached to a drive.
    struct BlockDeviceInfo {
        /// The name of its file.
        file: String,
        /// The name of its node in the graph.
        node_name as "node-name": Option<String>,
        /// True if it is read-only.
        ro: bool,
        /// Its format.
        drv: String,
        /// The name of its backing file.
        backing_file: Option<String>,
        /// The number of images below it.
        backing_file_depth: u64,
        /// True if this process may use it: always.
        active: bool,
        /// True if it is encrypted.
        encrypted: bool,
        /// The treatment of zeros that are written.
        detect_zeroes: DetectZeroes,
        /// The limit of bytes per second; 0: none.
        bps: u64,
        /// The same for reads.
        bps_rd: u64,
        /// The same for writes.
        bps_wr: u64,
        /// The limit of operations per second; 0: none.
        iops: u64,
        /// The same for reads.
        iops_rd: u64,
        /// The same for writes.
        iops_wr: u64,
        /// The image and its chain.
        image: ImageInfo,
        /// The caching by the host.
        cache: CacheInfo,
        /// The offset above which writes are reported; 0: none.
        write_threshold: u64,
    }

    /// The caching of an image by the host.
    struct CacheInfo {
        /// True if the guest sees a write cache.
        writeback: bool,
        /// True if the host's page cache is bypassed.
        direct: bool,
        /// True if flushes are ignored.
        no_flush as "no-flush": bool,
    }

    /// An image and what lies below it.
    struct ImageInfo {
        /// Its file's name.
        filename: String,
        /// Its format.
        format: String,
        /// True if it must be checked before use.
        dirty_flag as "dirty-flag": Option<bool>,
        /// Bytes that its file takes on the host.
        actual_size as "actual-size": Option<u64>,
        /// Bytes that the guest sees.
        virtual_size as "virtual-size": u64,
        /// Its format's unit of allocation.
        cluster_size as "cluster-size": Option<u64>,
        /// True if it is encrypted.
        encrypted: Option<bool>,
        /// True if it is compressed.
        compressed: Option<bool>,
        /// Its backing file as recorded.
        backing_filename as "backing-filename": Option<String>,
        /// The same as a path that can be opened from here.
        full_backing_filename as "full-backing-filename": Option<String>,
        /// The recorded format of its backing file.
        backing_filename_format as "backing-filename-format": Option<String>,
        /// Its backing image.
        backing_image as "backing-image": Option<Box<ImageInfo>>,
        /// Properties that only its format has, as QEMU's `ImageInfoSpecific`.
        format_specific as "format-specific": Option<Value>,
    }
}

qapi_enum! {
    /// The kind of I/O error that stopped a machine or paused a job.
    enum IoStatus {
        /// No error.
        Ok = "ok",
        /// An I/O error.
        Failed = "failed",
        /// No space left.
        Nospace = "nospace",
    }

    /// The treatment of zeros that are written.
    enum DetectZeroes {
        /// They are written.
        Off = "off",
        /// They are turned into a write-zeroes request.
        On = "on",
        /// They are turned into a discard.
        Unmap = "unmap",
    }
}

impl BlockDeviceInfo {
    /// Describes an image without a node name and without a backing file. As all images here, it is neither
    /// encrypted nor throttled, its guest sees a write cache, and zeros that are written are data.
    pub fn new(file: String, image: ImageInfo, direct: bool) -> Self {
        BlockDeviceInfo {
            file,
            node_name: None,
            ro: false,
            drv: image.format.clone(),
            backing_file: None,
            backing_file_depth: 0,
            active: true,
            encrypted: false,
            detect_zeroes: DetectZeroes::Off,
            bps: 0,
            bps_rd: 0,
            bps_wr: 0,
            iops: 0,
            iops_rd: 0,
            iops_wr: 0,
            image,
            cache: CacheInfo { writeback: true, direct, no_flush: false },
            write_threshold: 0,
        }
    }
}

impl ImageInfo {
    /// Describes an image of which only this is known.
    pub fn new(filename: String, format: String, virtual_size: u64) -> Self {
        ImageInfo {
            filename,
            format,
            dirty_flag: None,
            actual_size: None,
            virtual_size,
            cluster_size: None,
            encrypted: None,
            compressed: None,
            backing_filename: None,
            full_backing_filename: None,
            backing_filename_format: None,
            backing_image: None,
            format_specific: None,
        }
    }
}
