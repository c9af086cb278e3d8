//! An L2 entry that refers to metadata: the write is refused, and QEMU finds all metadata unchanged.

use block::{Buf, ErrorKind, Kind};

use crate::support::*;

fn word(bytes: &[u8], at: u64) -> u64 {
    u64::from_be_bytes(bytes[at as usize..at as usize + 8].try_into().unwrap())
}

#[test]
fn metadata_is_intact_after_a_refused_write() {
    let snapshot = "a snapshot's L1 table";
    for what in ["the L1 table", "the refcount table", "a refcount block", "the L2 table", snapshot] {
        let folder = Folder::new();
        let image = folder.file("image");
        qemu_img(&["create", "-q", "-f", "qcow2", &image, "2M"]);
        tool("qemu-io", &["-f", "qcow2", "-c", "write -P 7 0 1M", &image]);
        if what == snapshot {
            qemu_img(&["snapshot", "-c", "then", &image]);
            tool("qemu-io", &["-f", "qcow2", "-c", "write -P 7 0 1M", &image]);
        }
        let sound = std::fs::read(&image).unwrap();
        let l1 = word(&sound, 40);
        let l2 = word(&sound, l1) & 0x00ff_ffff_ffff_fe00;
        let target = match what {
            "the L1 table" => l1,
            "the refcount table" => word(&sound, 48),
            "a refcount block" => word(&sound, word(&sound, 48)),
            "the L2 table" => l2,
            _ => word(&sound, word(&sound, 64)),
        };
        let entry = l2 as usize..l2 as usize + 8;
        let mut damaged = sound.clone();
        damaged[entry.clone()].copy_from_slice(&(target | 1 << 63).to_be_bytes());
        std::fs::write(&image, &damaged).unwrap();

        let path = image.clone();
        real(move |opener| async move {
            let disk = open(&opener, &path, Kind::Qcow2).await;
            let ticket = disk.enter().await;
            let error = disk.write(&ticket, 512, Buf::from_bytes(&[9; 4096])).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
            drop(ticket);
            disk.close().await.unwrap();
        });

        let marked = try_tool("qemu-io", &["-f", "qcow2", "-c", "write 0 512", &image]);
        assert!(!marked.status.success(), "{what}: QEMU does not see the mark");
        // With that entry restored, QEMU finds nothing wrong but the corrupt bit.
        let mut mended = std::fs::read(&image).unwrap();
        mended[entry].copy_from_slice(&word(&sound, l2).to_be_bytes());
        std::fs::write(&image, &mended).unwrap();
        qemu_img(&["check", "-q", "-f", "qcow2", "-r", "all", &image]);
        check(&image);
        let mut content = vec![0; 2 << 20];
        content[..1 << 20].fill(7);
        compare(&folder, &image, &content);
        assert!(std::fs::read(&image).unwrap() == sound, "{what}");
    }
}
