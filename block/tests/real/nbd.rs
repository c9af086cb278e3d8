//! Exports of QEMU's server.

use std::os::unix::fs::FileExt;

use crate::support::{Folder, MODES, real, tool};
use block::storage::Opener;

/// An image of pieces of 4 KiB, data and hole in turn. QEMU's server describes 1 MiB of runs in one answer,
/// 131,072 of them, and this has more.
#[test]
fn a_finely_holed_export_is_mapped() {
    const PIECE: u64 = 4096;
    const PIECES: u64 = 140_000;
    let folder = Folder::new();
    let image = folder.write("image", &[]);
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    file.set_len(PIECES * PIECE).unwrap();
    for at in (0..PIECES).step_by(2) {
        file.write_all_at(&[1; PIECE as usize], at * PIECE).unwrap();
    }
    let socket = folder.path().join("socket");
    let [socket, image] =
        [&socket, std::path::Path::new(&image)].map(|path| path.to_str().unwrap().to_owned());
    // Serves two clients, one after the other, and ends.
    for writable in [false, true] {
        tool("qemu-nbd", &["--fork", "-f", "raw", "-k", &socket, "-x", "image", &image]);
        let uri = format!("nbd+unix:///image?socket={socket}&reconnect-delay=0");
        real(MODES[0], move |opener| async move {
            let storage = opener.open(&uri, writable).await.unwrap();
            let mut at = 0;
            while at < PIECES * PIECE {
                // A writable export is asked for each range anew.
                let found = storage.map(at, PIECES * PIECE).await.unwrap();
                assert_eq!((found.len, found.data), (PIECE, at.is_multiple_of(2 * PIECE)), "at {at}");
                at += if writable { 35_001 * PIECE } else { PIECE };
            }
        });
    }
}
