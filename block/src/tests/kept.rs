//! What an image says in its first cluster: read wherever it stands there, and kept where we do not know it.

use super::*;
use crate::Buf;

fn half(image: &[u8], at: usize) -> usize {
    u32::from_be_bytes(image[at..at + 4].try_into().unwrap()) as usize
}

/// The end of the header's extensions.
fn extensions_end(image: &[u8]) -> usize {
    let mut at = half(image, 100);
    while half(image, at) != 0 {
        at += (8 + half(image, at + 4)).next_multiple_of(8);
    }
    at
}

/// Moves the backing file's name away, to `to` in the first cluster.
fn move_name(image: &mut [u8], to: usize) {
    let (at, len) = (half(image, 12), half(image, 16));
    let name = image[at..at + len].to_vec();
    image[at..at + len].fill(0);
    image[to..to + len].copy_from_slice(&name);
    image[8..16].copy_from_slice(&(to as u64).to_be_bytes());
}

#[test]
fn unknown_extensions_and_features_outlive_us() {
    Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        files.add("base", base_content(300));
        let wish = Create { backing: Some(("base".into(), Kind::Raw)), ..options(64 << 10, true) };
        image::create(&*files, "leaf", Kind::Qcow2, &wish).await.unwrap();
        let mut image = files.get("leaf").unwrap().content();
        move_name(&mut image, 8192);
        let at = extensions_end(&image);
        let extension = [&[0x12, 0x34, 0x56, 0x78, 0, 0, 0, 13][..], b"what is this?"].concat();
        image[at..at + extension.len()].copy_from_slice(&extension);
        // Unknown features: compatible ones stay, autoclear ones go.
        image[80] |= 0x40;
        image[88] |= 0x80;
        files.add("leaf", image);

        let (disk, _) = open(&files, "leaf", Kind::Qcow2).await;
        let unchanged = files.get("leaf").unwrap().content();
        assert_eq!(unchanged[88], 0x80, "nothing is changed before the first write");
        let ticket = disk.enter().await;
        disk.write(&ticket, 0, Buf::from_bytes(&[1; 512])).await.unwrap();
        drop(ticket);
        assert_eq!(
            files.get("leaf").unwrap().content()[88..96],
            [0; 8],
            "cleared before anything is flushed"
        );
        disk.start_stream().unwrap();
        wait_for_stream(&disk).await;
        disk.close().await.unwrap();
        let image = files.get("leaf").unwrap().content();
        assert_eq!((half(&image, 8), half(&image, 12), half(&image, 16)), (0, 0, 0), "no backing file");
        assert_eq!(image[at..at + extension.len()], extension);
        assert_eq!((image[80], &image[88..96]), (0x40, &[0; 8][..]));
        check(&files, "leaf", Kind::Qcow2, model::Leaks::None);
    });
}

#[test]
fn a_backing_file_is_named_anywhere_in_the_first_cluster() {
    Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        files.add("base", vec![5; 4096]);
        let wish = Create { backing: Some(("base".into(), Kind::Raw)), ..options(2 << 20, false) };
        image::create(&*files, "leaf", Kind::Qcow2, &wish).await.unwrap();
        let mut image = files.get("leaf").unwrap().content();
        move_name(&mut image, (2 << 20) - 4);
        files.add("leaf", image);
        let (disk, _) = open(&files, "leaf", Kind::Qcow2).await;
        assert_eq!(disk.leaf().backing().unwrap().name(), "base");
    });
}
