//! `millrace image map`: prints the same as `qemu-img map`.

use std::io::{BufWriter, Write};

use block::map::{Piece, map};
use block::{Kind, chain};

use super::super::Failure;

pub(super) async fn run(file: &str, format: Kind, share: bool, json: bool) -> Result<(), Failure> {
    let leaf = chain::look(&super::opener(), file, format, share).await.map_err(|e| e.to_string())?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut written = Ok(());
    let mut before = if json { "[" } else { "" };
    if !json {
        written = writeln!(out, "{:<16}{:<16}{:<16}File", "Offset", "Length", "Mapped to");
    }
    let print = |piece: &Piece| {
        if written.is_err() {
            return;
        }
        written = match (json, piece.offset) {
            (true, _) => write!(out, "{before}{}", to_json(piece)),
            // The table for people has only pieces whose data lie in a file.
            (false, Some(offset)) if piece.data && !piece.zero => {
                let hex = |n: u64| format!("{n:#x}");
                let (start, length) = (hex(piece.start), hex(piece.length));
                writeln!(out, "{start:<16}{length:<16}{:<16}{}", hex(offset), piece.file)
            }
            _ => Ok(()),
        };
        if json {
            before = ",\n";
        }
    };
    map(&leaf, print).await.map_err(|e| e.to_string())?;
    if json {
        // A disk of no bytes has no pieces.
        written = written.and_then(|()| writeln!(out, "{}", if before == "[" { "[]" } else { "]" }));
    }
    written.and_then(|()| out.flush()).map_err(|e| format!("standard output: {e}"))
}

fn to_json(piece: &Piece) -> String {
    let offset = piece.offset.map_or(String::new(), |offset| format!(", \"offset\": {offset}"));
    format!(
        "{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \"data\": {}, \
         \"compressed\": {}{offset}}}",
        piece.start, piece.length, piece.depth, piece.present, piece.zero, piece.data, piece.compressed
    )
}
