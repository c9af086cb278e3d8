//! A third reader: the crate imago, for the features that it supports.

use imago::file::File;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};

use crate::rows::Layout;

/// Returns true if imago can read such a layer: not QED, nor every feature of qcow2.
fn knows(layer: &Layout) -> bool {
    match layer.format {
        "raw" => true,
        "qcow2" => layer.get("extended_l2") != Some("on") && layer.get("compression_type") != Some("zstd"),
        _ => false,
    }
}

/// Returns the disk of a qcow2 leaf, the last of these layers, as imago reads it; `None` if it cannot.
pub fn read<'a>(mut layers: impl DoubleEndedIterator<Item = &'a Layout>, leaf: &str) -> Option<Vec<u8>> {
    let top = layers.next_back()?;
    if top.format != "qcow2" || !knows(top) || !layers.all(knows) {
        return None;
    }
    let image = Qcow2::<File>::builder_path(leaf).open(PermissiveImplicitOpenGate::default());
    let image = FormatAccess::new(image.unwrap_or_else(|e| panic!("imago: {leaf}: {e}")));
    let mut bytes = vec![0; image.size() as usize];
    image.read(&mut bytes[..], 0).unwrap_or_else(|e| panic!("imago: {leaf}: {e}"));
    Some(bytes)
}
