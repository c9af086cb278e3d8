//! The map of a chain: the content of each range and the image that it comes from, like `qemu-img map`.

use std::rc::Rc;

use crate::Result;
use crate::format::Content;
use crate::image::node::Node;

/// A run of the disk whose content comes from one image of the chain in one way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Offset on the disk in bytes.
    pub start: u64,
    /// Length in bytes, at least 1.
    pub length: u64,
    /// Depth of the image that the content comes from: 0 is the leaf.
    pub depth: usize,
    /// True if some image of the chain defines the content. If none does, it reads as zeros.
    pub present: bool,
    /// True if it is known to read as zeros without reading it.
    pub zero: bool,
    /// True if there is data to read.
    pub data: bool,
    /// True if the data is compressed.
    pub compressed: bool,
    /// Offset in the file of the data, or of the space kept for it, in bytes; `None` if there is
    /// neither, or the data is compressed.
    pub offset: Option<u64>,
    /// Name of the file.
    pub file: String,
}

impl Piece {
    /// Returns true if `next`, which begins where this one ends, continues it in the same way.
    fn continues(&self, next: &Piece) -> bool {
        let as_if = Piece {
            start: self.start,
            length: self.length,
            offset: next.offset.and_then(|offset| offset.checked_sub(self.length)),
            ..next.clone()
        };
        *self == as_if && self.offset.is_some() == next.offset.is_some()
    }
}

/// Calls `found` for each run of the disk, in order. Equal neighbours are joined.
pub async fn map(leaf: &Rc<Node>, mut found: impl FnMut(&Piece)) -> Result<()> {
    let mut last: Option<Piece> = None;
    let mut at = 0;
    while at < leaf.size() {
        let piece = piece(leaf, at, leaf.size() - at).await?;
        at += piece.length;
        match &mut last {
            Some(last) if last.continues(&piece) => last.length += piece.length,
            _ => {
                if let Some(done) = last.replace(piece) {
                    found(&done);
                }
            }
        }
    }
    if let Some(done) = last {
        found(&done);
    }
    Ok(())
}

/// Returns the first run of `[start, start + length)`, which must be inside the disk.
async fn piece(leaf: &Rc<Node>, start: u64, mut length: u64) -> Result<Piece> {
    let mut node = leaf.clone();
    let mut depth = 0;
    loop {
        let run = node.format().map(start, length).await?;
        let mut piece = Piece {
            start,
            length: run.len,
            depth,
            present: true,
            zero: false,
            data: false,
            compressed: false,
            offset: None,
            file: node.name().to_owned(),
        };
        match run.content {
            Content::Data(host) if !node.kind().has_metadata() => {
                let extent = node.storage().map(host, run.len).await?;
                (piece.length, piece.data, piece.zero) = (extent.len, extent.data, !extent.data);
                piece.offset = Some(host);
            }
            Content::Data(host) => {
                (piece.data, piece.offset) = (true, Some(host));
                if node.format().has_unwritten().await? {
                    let extent = node.storage().map(host, run.len).await?;
                    (piece.length, piece.zero) = (extent.len, !extent.data);
                }
            }
            Content::Compressed(..) => (piece.data, piece.compressed) = (true, true),
            Content::Zero | Content::Absent => {
                if run.content == Content::Absent {
                    // A range past the backing file's end reads as zeros and belongs to no image.
                    if let Some(backing) = node.backing().filter(|backing| start < backing.size()) {
                        length = run.len.min(backing.size() - start);
                        (node, depth) = (backing, depth + 1);
                        continue;
                    }
                    piece.present = false;
                }
                piece.zero = true;
                (piece.offset, piece.length) = node.format().kept_space(start, run.len).await?;
            }
        }
        return Ok(piece);
    }
}
