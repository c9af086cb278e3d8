//! Descriptions of disks and images in QMP's types.

use std::rc::Rc;

use block::image::Recorded;
use block::node::Node;
use block::{Disk, Kind};
use qmp::types::*;

use super::Drive;

/// The maximum number of images in one description, each nested in the one above. Many JSON readers limit
/// nesting to 128 levels. `query-named-block-nodes` has the rest of a longer chain.
const NESTED: usize = 64;
/// The maximum number of descriptions in the reply about a whole chain, unless the chain has more images.
const DESCRIBED: usize = 4096;

/// The properties of one image of a chain that descriptions need.
struct Layer {
    name: String,
    node_name: String,
    read_only: bool,
    kind: Kind,
    size: u64,
    cluster_size: u64,
    space: Option<u64>,
    backing: Option<Recorded>,
}

fn layer(node: &Node) -> Layer {
    Layer {
        name: node.name().to_owned(),
        node_name: node.node_name(),
        read_only: !node.is_writable(),
        kind: node.kind(),
        size: node.size(),
        cluster_size: node.cluster_size(),
        space: node.space(),
        backing: node.recorded_backing(),
    }
}

/// Returns the images of a disk, from its leaf on.
pub(super) fn chain(disk: &Disk) -> impl Iterator<Item = Rc<Node>> {
    std::iter::successors(Some(disk.leaf()), |node| node.backing())
}

fn layers(disk: &Disk) -> Vec<Layer> {
    chain(disk).filter(|_| disk.has_medium()).map(|node| layer(&node)).collect()
}

/// Describes the image at the head of `layers`, with `nested` of those behind it nested inside.
fn image(layers: &[Layer], nested: usize) -> Option<ImageInfo> {
    let (this, behind) = layers.split_first()?;
    let backing = this.backing.as_ref();
    Some(ImageInfo {
        actual_size: this.space,
        cluster_size: Some(this.cluster_size).filter(|size| *size > 1),
        backing_filename: backing.map(|backing| backing.name.clone()),
        full_backing_filename: backing.and_then(|backing| backing.full.clone()),
        backing_filename_format: backing.and_then(|backing| backing.format.clone()),
        backing_image: if nested > 0 { image(behind, nested - 1).map(Box::new) } else { None },
        ..ImageInfo::new(this.name.clone(), this.kind.name().into(), this.size)
    })
}

/// Returns a drive's entry of `query-block`.
pub(super) async fn describe(drive: &Drive, has_guest: bool) -> block::Result<BlockInfo> {
    let (layers, tray) = drive
        .handle
        .submit(|disk| async move {
            (layers(&disk), disk.tray().ok().map(|tray| (tray.is_open(), tray.is_locked())))
        })
        .await?;
    let options = &drive.options;
    let inserted = inserted(drive, &layers, NESTED - 1, false);
    Ok(BlockInfo {
        device: options.id.clone(),
        qdev: has_guest.then(|| options.id.clone()),
        kind: "unknown".into(),
        removable: tray.is_some(),
        locked: tray.is_some_and(|(_, locked)| locked),
        inserted,
        tray_open: tray.map(|(open, _)| open),
        io_status: options.has_io_status().then(|| drive.io_status.get()),
    })
}

/// Describes the images of a drive's chain. With `flat`, nothing is nested.
pub(super) async fn images(drive: &Drive, flat: bool) -> block::Result<Vec<BlockDeviceInfo>> {
    let layers = drive.handle.submit(|disk| async move { layers(&disk) }).await?;
    let nested = match flat {
        true => 0,
        // Nesting all images behind each image would describe half the square of the chain's length.
        false => (DESCRIBED / layers.len().max(1)).clamp(1, NESTED) - 1,
    };
    Ok((0..layers.len()).filter_map(|at| inserted(drive, &layers[at..], nested, flat)).collect())
}

/// Describes the image at the head of `layers`, as attached to the drive, with `nested` of those behind it
/// nested inside.
fn inserted(drive: &Drive, layers: &[Layer], nested: usize, flat: bool) -> Option<BlockDeviceInfo> {
    let (leaf, behind) = layers.split_first()?;
    let image = image(layers, nested)?;
    Some(BlockDeviceInfo {
        node_name: Some(leaf.node_name.clone()),
        ro: leaf.read_only,
        backing_file: behind.first().map(|layer| layer.name.clone()),
        // QEMU's flat reply has 0 here, too.
        backing_file_depth: if flat { 0 } else { behind.len() as u64 },
        ..BlockDeviceInfo::new(leaf.name.clone(), image, drive.options.direct)
    })
}
