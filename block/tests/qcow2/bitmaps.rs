//! QEMU's dirty bitmaps in an image that we write: QEMU must not trust them any more.

use block::{Buf, Kind};

use crate::support::{Folder, open, qemu_img, real, tool};

/// Returns the names of the bitmaps that QEMU trusts.
fn trusted(image: &str) -> Vec<String> {
    let info = qemu_img(&["info", "--output=json", "-f", "qcow2", image]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let bitmaps = info["format-specific"]["data"]["bitmaps"].as_array().cloned().unwrap_or_default();
    let trusted = bitmaps.iter().filter(|bitmap| {
        let flags = bitmap["flags"].as_array().unwrap();
        flags.iter().any(|flag| flag == "auto") && !flags.iter().any(|flag| flag == "in-use")
    });
    trusted.map(|bitmap| bitmap["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_write_in_place_is_not_missing_in_a_bitmap_that_is_trusted() {
    for layout in ["cluster_size=64k", "cluster_size=64k,extended_l2=on"] {
        for write in [true, false] {
            let folder = Folder::new();
            let image = folder.file("image");
            qemu_img(&["create", "-q", "-f", "qcow2", "-o", layout, &image, "64M"]);
            tool("qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 1M", &image]);
            qemu_img(&["bitmap", "--add", &image, "b0"]);
            assert_eq!(trusted(&image), ["b0"]);
            let name = image.clone();
            real(move |opener| async move {
                let disk = open(&opener, &name, Kind::Qcow2).await;
                let ticket = disk.enter().await;
                disk.read(&ticket, 0, Buf::new(4096)).await.unwrap();
                if write {
                    disk.write(&ticket, 128 << 10, Buf::from_bytes(&[9; 65536])).await.unwrap();
                }
                disk.flush(&ticket).await.unwrap();
                drop(ticket);
                disk.close().await.unwrap();
            });
            assert_eq!(
                trusted(&image),
                if write { vec![] } else { vec!["b0"] },
                "{layout}, written: {write}"
            );
        }
    }
}
