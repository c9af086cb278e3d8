//! Disks and their jobs in QMP's words.

use block::node::Node;
use block::stream::Progress;
use block::{Disk, Kind};
use qmp::types::*;

use super::Drive;

/// What `query-block` and image descriptions need of one image of a chain.
struct Layer {
    name: String,
    kind: Kind,
    size: u64,
    cluster_size: u64,
}

fn layer(node: &Node) -> Layer {
    Layer {
        name: node.name().to_owned(),
        kind: node.kind(),
        size: node.size(),
        cluster_size: node.cluster_size(),
    }
}

fn layers(disk: &Disk) -> Vec<Layer> {
    let mut next = Some(disk.leaf());
    let mut layers = Vec::new();
    while let Some(node) = next {
        layers.push(layer(&node));
        next = node.backing();
    }
    layers
}

/// The image at the head of `layers`, with all behind it.
fn image(layers: &[Layer]) -> Option<ImageInfo> {
    let (this, behind) = layers.split_first()?;
    let backing = behind.first();
    Some(ImageInfo {
        filename: this.name.clone(),
        format: this.kind.name().into(),
        dirty_flag: None,
        actual_size: None,
        virtual_size: this.size,
        cluster_size: Some(this.cluster_size).filter(|size| *size > 1),
        encrypted: None,
        compressed: None,
        backing_filename: backing.map(|layer| layer.name.clone()),
        full_backing_filename: backing.map(|layer| layer.name.clone()),
        backing_filename_format: backing.map(|layer| layer.kind.name().into()),
        backing_image: image(behind).map(Box::new),
        format_specific: None,
    })
}

/// An entry of `query-block`.
pub(super) async fn describe(drive: &Drive) -> block::Result<BlockInfo> {
    let layers = drive.handle.call(|disk| async move { Ok(layers(&disk)) }).await?;
    let options = &drive.options;
    let inserted = layers.first().zip(image(&layers)).map(|(leaf, image)| BlockDeviceInfo {
        file: leaf.name.clone(),
        node_name: None,
        ro: options.read_only,
        drv: leaf.kind.name().into(),
        backing_file: layers.get(1).map(|layer| layer.name.clone()),
        backing_file_depth: layers.len() as u64 - 1,
        encrypted: false,
        detect_zeroes: DetectZeroes::Off,
        bps: 0,
        bps_rd: 0,
        bps_wr: 0,
        iops: 0,
        iops_rd: 0,
        iops_wr: 0,
        image,
        cache: CacheInfo { writeback: true, direct: options.direct, no_flush: false },
        write_threshold: 0,
    });
    Ok(BlockInfo {
        device: options.id.clone(),
        qdev: None,
        kind: "unknown".into(),
        removable: false,
        locked: false,
        inserted,
        tray_open: None,
        io_status: Some(IoStatus::Ok),
    })
}

/// An entry of `query-block-jobs`.
pub(super) fn block_job(progress: Progress) -> BlockJobInfo {
    BlockJobInfo {
        kind: JobType::Stream,
        device: progress.device,
        len: progress.len,
        offset: progress.offset,
        busy: true,
        paused: false,
        speed: 0,
        io_status: IoStatus::Ok,
        ready: false,
        status: JobStatus::Running,
        auto_finalize: true,
        auto_dismiss: true,
        error: None,
    }
}

/// An entry of `query-jobs`.
pub(super) fn job(progress: Progress) -> JobInfo {
    JobInfo {
        id: progress.device,
        kind: JobType::Stream,
        status: JobStatus::Running,
        current_progress: progress.offset,
        total_progress: progress.len,
        error: None,
    }
}
