//! Space that a guest discards leaves the image and the host's file, and QEMU agrees about the rest.

use std::os::unix::fs::MetadataExt;

use block::image::{self, Create};
use block::{Buf, Kind};
use serde_json::Value;

use crate::support::*;

const MIB: u64 = 1 << 20;

/// Returns the bytes that the file takes on the host.
fn used(image: &str) -> u64 {
    std::fs::metadata(image).unwrap().blocks() * 512
}

/// Returns the run of QEMU's map that covers `offset`.
fn theirs(image: &str, offset: u64) -> Value {
    let map: Value =
        serde_json::from_str(&qemu_img(&["map", "--output=json", "-f", "qcow2", image])).unwrap();
    let covers = |run: &&Value| {
        let start = run["start"].as_u64().unwrap();
        (start..start + run["length"].as_u64().unwrap()).contains(&offset)
    };
    map.as_array().unwrap().iter().find(covers).unwrap().clone()
}

fn layouts() -> [(&'static str, Create); 4] {
    let size = Some(64 * MIB);
    [
        ("version 2", Create { size, version: Some(2), extended_l2: Some(false), ..Create::default() }),
        ("plain", Create { size, extended_l2: Some(false), ..Create::default() }),
        ("subclusters", Create { size, extended_l2: Some(true), ..Create::default() }),
        ("4 KiB", Create { size, cluster_size: Some(4096), extended_l2: Some(false), ..Create::default() }),
    ]
}

#[test]
fn the_file_shrinks_by_what_is_discarded() {
    for (what, options) in layouts() {
        let folder = Folder::new();
        let image = folder.file("image");
        let path = image.clone();
        let content = content(&mut Random::new(1), 32 << 20);
        let mut model = content.clone();
        model.resize(64 << 20, 0);
        let full = real(move |opener| async move {
            image::create(&*opener, &path, Kind::Qcow2, &options).await.unwrap();
            let disk = open(&opener, &path, Kind::Qcow2).await;
            let ticket = disk.enter().await;
            disk.write(&ticket, 0, Buf::from_bytes(&content)).await.unwrap();
            disk.flush(&ticket).await.unwrap();
            let full = used(&path);
            // In pieces, as a guest's file system does, and with both kinds of request.
            for at in (8..16).map(|at| at * MIB) {
                disk.discard(&ticket, at, MIB).await.unwrap();
                disk.write_zeroes(&ticket, at + 8 * MIB, MIB, true).await.unwrap();
            }
            drop(ticket);
            disk.close().await.unwrap();
            full
        });
        model[8 << 20..24 << 20].fill(0);
        let now = used(&image);
        assert!(full >= 32 * MIB && now + 15 * MIB < full, "{what}: {full} bytes became {now}");
        check(&image);
        compare(&folder, &image, &model);
        let run = theirs(&image, 12 * MIB);
        assert_eq!((&run["data"], &run["zero"]), (&false.into(), &true.into()), "{what}: {run}");
        assert!(run.get("offset").is_none(), "{what}: {run}");

        // The freed space can be allocated again.
        let (path, len) = (image.clone(), std::fs::metadata(&image).unwrap().len());
        real(move |opener| async move {
            let disk = open(&opener, &path, Kind::Qcow2).await;
            let ticket = disk.enter().await;
            disk.write(&ticket, 40 * MIB, Buf::from_bytes(&[5; 8 << 20])).await.unwrap();
            drop(ticket);
            disk.close().await.unwrap();
        });
        model[40 << 20..48 << 20].fill(5);
        assert!(std::fs::metadata(&image).unwrap().len() <= len + MIB, "{what}: grew in spite of free space");
        check(&image);
        compare(&folder, &image, &model);
    }
}

#[test]
fn giving_up_what_was_never_written_changes_nothing() {
    for (what, options) in layouts() {
        let folder = Folder::new();
        let image = folder.file("image");
        let path = image.clone();
        real(move |opener| async move {
            image::create(&*opener, &path, Kind::Qcow2, &options).await.unwrap();
            let before = std::fs::read(&path).unwrap();
            let disk = open(&opener, &path, Kind::Qcow2).await;
            let ticket = disk.enter().await;
            disk.discard(&ticket, 0, 64 * MIB).await.unwrap();
            disk.write_zeroes(&ticket, 512, 50 * MIB, true).await.unwrap();
            disk.write_zeroes(&ticket, 512, 1024, false).await.unwrap();
            drop(ticket);
            disk.close().await.unwrap();
            assert!(std::fs::read(&path).unwrap() == before, "{what}");
        });
    }
}

#[test]
fn zeros_without_unmap_keep_their_space() {
    for (what, options) in layouts() {
        let folder = Folder::new();
        let image = folder.file("image");
        let path = image.clone();
        let v2 = options.version == Some(2);
        real(move |opener| async move {
            image::create(&*opener, &path, Kind::Qcow2, &options).await.unwrap();
            let disk = open(&opener, &path, Kind::Qcow2).await;
            let ticket = disk.enter().await;
            disk.write(&ticket, 0, Buf::from_bytes(&[7; 4 << 20])).await.unwrap();
            disk.write_zeroes(&ticket, MIB, MIB, false).await.unwrap();
            drop(ticket);
            disk.close().await.unwrap();
        });
        check(&image);
        let mut model = vec![7; 4 << 20];
        model.resize(64 << 20, 0);
        model[1 << 20..2 << 20].fill(0);
        compare(&folder, &image, &model);
        let run = theirs(&image, MIB);
        assert_eq!((&run["data"], &run["zero"]), (&false.into(), &true.into()), "{what}: {run}");
        // Version 2 cannot record zeros that keep their space.
        assert_eq!(run.get("offset").is_some(), !v2, "{what}: {run}");

        let (path, at) = (image.clone(), run["offset"].clone());
        real(move |opener| async move {
            let disk = open(&opener, &path, Kind::Qcow2).await;
            let ticket = disk.enter().await;
            disk.write(&ticket, MIB + 512, Buf::from_bytes(&[9; 1 << 19])).await.unwrap();
            drop(ticket);
            disk.close().await.unwrap();
        });
        model[(1 << 20) + 512..][..1 << 19].fill(9);
        check(&image);
        compare(&folder, &image, &model);
        if !v2 {
            let run = theirs(&image, MIB + 4096);
            let start = run["start"].as_u64().unwrap();
            let expected = at.as_u64().unwrap() + start - MIB;
            assert_eq!(run["offset"].as_u64().unwrap(), expected, "{what}: {run}");
        }
    }
}

#[test]
fn the_backing_file_does_not_come_back() {
    for (what, options) in layouts() {
        let folder = Folder::new();
        let image = folder.file("image");
        let base = folder.write("base", &[3; 64 << 20]);
        let path = image.clone();
        let v2 = options.version == Some(2);
        real(move |opener| async move {
            let options = Create { size: None, backing: Some((base, Kind::Raw)), ..options };
            image::create(&*opener, &path, Kind::Qcow2, &options).await.unwrap();
            let disk = open(&opener, &path, Kind::Qcow2).await;
            let ticket = disk.enter().await;
            disk.write(&ticket, 0, Buf::from_bytes(&[7; 1 << 20])).await.unwrap();
            disk.discard(&ticket, 0, 2 * MIB).await.unwrap();
            disk.write_zeroes(&ticket, 4 * MIB, MIB, true).await.unwrap();
            drop(ticket);
            disk.close().await.unwrap();
        });
        check(&image);
        let mut model = vec![3; 64 << 20];
        if v2 {
            model[..1 << 20].fill(7);
        } else {
            model[..2 << 20].fill(0);
        }
        model[4 << 20..5 << 20].fill(0);
        compare(&folder, &image, &model);
        assert_eq!(theirs(&image, 0)["depth"], 0, "{what}");
    }
}
