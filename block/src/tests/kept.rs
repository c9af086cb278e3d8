//! Contents of an image's first cluster: found wherever they are in it, and preserved if we do not know them.

use super::*;
use crate::Buf;

fn half(image: &[u8], at: usize) -> usize {
    u32::from_be_bytes(image[at..at + 4].try_into().unwrap()) as usize
}

/// Returns the end of the header's extensions.
fn extensions_end(image: &[u8]) -> usize {
    let mut at = half(image, 100);
    while half(image, at) != 0 {
        at += (8 + half(image, at + 4)).next_multiple_of(8);
    }
    at
}

/// Moves the backing file's name to offset `to` in the first cluster.
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
        let options = Create { backing: Some(("base".into(), Kind::Raw)), ..options(64 << 10, true) };
        image::create(&*files, "leaf", Kind::Qcow2, &options).await.unwrap();
        let mut image = files.get("leaf").unwrap().content();
        move_name(&mut image, 8192);
        let at = extensions_end(&image);
        let extension = [&[0x12, 0x34, 0x56, 0x78, 0, 0, 0, 13][..], b"what is this?"].concat();
        image[at..at + extension.len()].copy_from_slice(&extension);
        // Unknown features: compatible bits stay, autoclear bits are cleared.
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
        stream_all(&disk).await.unwrap();
        wait_for_stream(&disk).await;
        disk.close().await.unwrap();
        let image = files.get("leaf").unwrap().content();
        assert_eq!((half(&image, 8), half(&image, 12), half(&image, 16)), (0, 0, 0), "no backing file");
        assert_eq!(image[at..at + extension.len()], extension);
        assert_eq!((image[80], &image[88..96]), (0x40, &[0; 8][..]));
        check(&files, "leaf", Kind::Qcow2, model::Leaks::None);
    });
}

/// A program that sets an autoclear bit (QEMU for its dirty bitmaps, for example) relies on no other
/// program writing.
#[test]
fn features_that_others_keep_up_to_date_go_before_any_write() {
    type Write = fn(Rc<Disk>) -> std::pin::Pin<Box<dyn Future<Output = ()>>>;
    const IN_PLACE: u64 = 4096;
    let writes: [(&str, Write); 4] = [
        ("in place", |disk| Box::pin(put(disk, IN_PLACE, 512))),
        ("beside what is there", |disk| Box::pin(put(disk, 512 << 10, 512))),
        ("zeroes in place", |disk| {
            Box::pin(async move {
                disk.write_zeroes(&disk.enter().await, 4096, 1024, false).await.unwrap();
            })
        }),
        ("discard", |disk| {
            Box::pin(async move {
                disk.discard(&disk.enter().await, 0, 64 << 10).await.unwrap();
            })
        }),
    ];
    for (what, write) in writes {
        for layout in [options(64 << 10, true), options(64 << 10, false), options(512, false)] {
            Executor::simulated(1).block_on(async move {
                let files = SimDir::new();
                let options = Create { size: Some(1 << 20), ..layout };
                image::create(&*files, "disk", Kind::Qcow2, &options).await.unwrap();
                let (disk, _) = open(&files, "disk", Kind::Qcow2).await;
                put(disk.clone(), 0, 64 << 10).await;
                disk.close().await.unwrap();
                drop(disk);
                let mut image = files.get("disk").unwrap().content();
                image[88] |= 0x80;
                image[95] |= 1;
                let file = files.add("disk", image);
                let (disk, _) = open(&files, "disk", Kind::Qcow2).await;
                let buf = Buf::new(1 << 20);
                disk.read(&disk.enter().await, 0, buf).await.unwrap();
                assert_eq!(file.content()[88..96], [0x80, 0, 0, 0, 0, 0, 0, 1], "a read changes nothing");
                write(disk.clone()).await;
                assert_eq!(file.content()[88..96], [0; 8], "{what}: cleared before it is answered");
                put(disk.clone(), IN_PLACE, 512).await;
                disk.close().await.unwrap();
                drop(disk);
                check(&files, "disk", Kind::Qcow2, model::Leaks::None);
                let (disk, _) = open(&files, "disk", Kind::Qcow2).await;
                let bytes = model::read_all(&disk).await;
                assert!(bytes[4096..4608].iter().all(|byte| *byte == 5));
            });
        }
    }
}

async fn put(disk: Rc<Disk>, at: u64, len: usize) {
    let ticket = disk.enter().await;
    disk.write(&ticket, at, Buf::from_bytes(&vec![5; len])).await.unwrap();
}

#[test]
fn a_backing_file_is_named_anywhere_in_the_first_cluster() {
    Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        files.add("base", vec![5; 4096]);
        let options = Create { backing: Some(("base".into(), Kind::Raw)), ..options(2 << 20, false) };
        image::create(&*files, "leaf", Kind::Qcow2, &options).await.unwrap();
        let mut image = files.get("leaf").unwrap().content();
        move_name(&mut image, (2 << 20) - 4);
        files.add("leaf", image);
        let (disk, _) = open(&files, "leaf", Kind::Qcow2).await;
        assert_eq!(disk.leaf().backing().unwrap().name(), "base");
    });
}
