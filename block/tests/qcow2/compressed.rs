//! Images with compressed clusters, as `qemu-img convert -c` makes them.

use block::image::{self, Create};
use block::job::JobOptions;
use block::stream::StreamOptions;
use block::{ErrorKind, Kind};

use crate::support::*;

const LAYOUTS: [&str; 7] = [
    "compression_type=zlib,cluster_size=512",
    "compression_type=zlib,cluster_size=4k",
    "compression_type=zlib,cluster_size=64k",
    "compression_type=zstd,cluster_size=64k",
    "compression_type=zstd,cluster_size=2M",
    "compression_type=zstd,cluster_size=64k,extended_l2=on",
    "compat=0.10",
];

/// Creates a compressed image of `content`.
fn compressed(folder: &Folder, name: &str, content: &[u8], options: &str) -> String {
    let raw = folder.write("content.raw", content);
    let image = folder.file(name);
    qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, &raw, &image]);
    image
}

#[test]
fn reads_equal_the_source_in_any_order() {
    for (seed, options) in LAYOUTS.iter().enumerate() {
        let folder = Folder::new();
        let mut random = Random::new(seed as u64);
        let content = content(&mut random, 3 * 1024 * 1024 + 512 * 77);
        let image = compressed(&folder, "image", &content, options);
        real(move |opener| async move {
            let disk = open(&opener, &image, Kind::Qcow2).await;
            assert!(read(&disk, 0, content.len()).await == content, "{options}");
            for at in (0..1024 * 1024).step_by(4096) {
                assert!(read(&disk, at as u64, 4096).await == content[at..at + 4096], "{options} at {at}");
            }
            for _ in 0..50 {
                let at = random.below(content.len() as u64 / 512 - 200) as usize * 512;
                let len = (1 + random.below(199) as usize) * 512;
                assert!(read(&disk, at as u64, len).await == content[at..at + len], "{options} at {at}");
            }
        });
    }
}

#[test]
fn writes_over_compressed_clusters_leave_an_exact_image() {
    for (seed, options) in LAYOUTS.iter().enumerate() {
        let folder = Folder::new();
        let mut random = Random::new(100 + seed as u64);
        let content = content(&mut random, 2 * 1024 * 1024 + 512 * 77);
        let image = compressed(&folder, "image", &content, options);
        // A snapshot shares every cluster.
        if seed % 2 == 0 {
            qemu_img(&["snapshot", "-c", "before", &image]);
        }
        let name = image.clone();
        let (model, disk_size) = real(move |opener| async move {
            let mut model = content;
            for _ in 0..3 {
                let disk = open(&opener, &name, Kind::Qcow2).await;
                scribble(&disk, &mut model, &mut random, 40).await;
                assert!(read(&disk, 0, model.len()).await == model, "{options}");
                disk.close().await.unwrap();
            }
            let size = model.len();
            (model, size)
        });
        assert_eq!(model.len(), disk_size);
        check(&image);
        compare(&folder, &image, &model);
        if seed % 2 == 0 {
            // The clusters of the snapshot were not touched.
            qemu_img(&["snapshot", "-a", "before", &image]);
            compare(&folder, &image, &std::fs::read(folder.file("content.raw")).unwrap());
            check(&image);
        }
    }
}

#[test]
fn streams_from_a_compressed_backing_file() {
    for options in LAYOUTS {
        let folder = Folder::new();
        let content = content(&mut Random::new(7), 2 * 1024 * 1024 + 512 * 13);
        let base = compressed(&folder, "base", &content, options);
        let leaf = folder.file("leaf");
        let name = leaf.clone();
        real(move |opener| async move {
            let options = Create { backing: Some((base, Kind::Qcow2)), ..Create::default() };
            image::create(&*opener, &name, Kind::Qcow2, &options).await.unwrap();
            let disk = open(&opener, &name, Kind::Qcow2).await;
            disk.start_stream(StreamOptions::default(), JobOptions::block_stream(disk.name())).await.unwrap();
            while !disk.query_stream().is_empty() {
                executor::sleep(std::time::Duration::from_millis(1)).await;
            }
            assert!(disk.leaf().backing().is_none());
            disk.close().await.unwrap();
        });
        check(&leaf);
        compare(&folder, &leaf, &content);
    }
}

#[test]
fn garbage_is_told_by_the_files_name() {
    for options in &LAYOUTS[2..4] {
        let folder = Folder::new();
        let content = vec![7; 1 << 20];
        let image = compressed(&folder, "image", &content, options);
        let map = |image: &str| qemu_img(&["map", "--output=json", image]);
        assert!(map(&image).contains("\"compressed\": true"));
        // The compressed clusters are at the end of the file.
        let mut bytes = std::fs::read(&image).unwrap();
        let end = bytes.len();
        let start = end - end.min(0x400);
        bytes[start..].fill(0xff);
        std::fs::write(&image, bytes).unwrap();
        let name = image.clone();
        real(move |opener| async move {
            let disk = open(&opener, &name, Kind::Qcow2).await;
            let ticket = disk.enter().await;
            let error = disk.read(&ticket, 0, block::Buf::new(1 << 20)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains(&name), "{error}");
        });
    }
}
