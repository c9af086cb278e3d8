//! `map` reports the same as `qemu-img map`.

use std::cell::RefCell;
use std::rc::Rc;

use block::{Kind, chain, map};
use serde_json::{Value, json};

use crate::support::*;

/// Returns our map in QEMU's JSON.
fn ours(image: &str, kind: Kind) -> Value {
    let image = image.to_owned();
    real(move |opener| async move {
        let leaf = chain::open(&*opener, &image, kind, false).await.unwrap();
        let pieces: Rc<RefCell<Vec<Value>>> = Rc::default();
        map::map(&leaf, |piece| {
            let mut entry = json!({
                "start": piece.start, "length": piece.length, "depth": piece.depth, "present": piece.present,
                "zero": piece.zero, "data": piece.data, "compressed": piece.compressed,
            });
            if let Some(offset) = piece.offset {
                entry["offset"] = offset.into();
            }
            pieces.borrow_mut().push(entry);
        })
        .await
        .unwrap();
        Value::Array(pieces.take())
    })
}

fn theirs(image: &str, kind: Kind) -> Value {
    serde_json::from_str(&qemu_img(&["map", "--output=json", "-f", kind.name(), image])).unwrap()
}

fn agree(image: &str, kind: Kind) {
    assert_eq!(ours(image, kind), theirs(image, kind), "{image}");
}

#[test]
fn chains_of_every_kind() {
    for options in ["cluster_size=64k", "cluster_size=4k", "cluster_size=64k,extended_l2=on"] {
        let folder = Folder::new();
        let base = folder.write("base.raw", &[]);
        qemu_img(&["resize", "-q", "-f", "raw", &base, "1M"]);
        tool("qemu-io", &["-f", "raw", "-c", "write -P 1 0 128k", "-c", "write -P 1 768k 32k", &base]);
        let (middle, leaf) = (folder.file("middle.qcow2"), folder.file("leaf.qcow2"));
        let create = |image: &str, backing: &str, format: &str, size: &str| {
            qemu_img(&[
                "create", "-q", "-f", "qcow2", "-o", options, "-b", backing, "-F", format, image, size,
            ])
        };
        create(&middle, &base, "raw", "3M");
        tool(
            "qemu-io",
            &["-c", "write -P 2 64k 64k", "-c", "write -z 640k 128k", "-c", "write 2M 64k", &middle],
        );
        tool("qemu-io", &["-c", "write -c -P 5 512k 64k", &middle]);
        create(&leaf, &middle, "qcow2", "4M");
        tool("qemu-io", &["-c", "write -P 3 100k 6k", "-c", "write -z 1M 300k", "-c", "write 3M 64k", &leaf]);
        // Zeros that keep their space.
        tool("qemu-io", &["-c", "write -P 4 1536k 192k", "-c", "write -z 1600k 64k", &leaf]);
        agree(&base, Kind::Raw);
        agree(&middle, Kind::Qcow2);
        agree(&leaf, Kind::Qcow2);
    }
}

#[test]
fn compressed_and_empty_images() {
    let folder = Folder::new();
    let raw = folder.write("raw", &content(&mut Random::new(3), 3 << 20));
    for (n, options) in ["cluster_size=64k", "cluster_size=512", "extended_l2=on"].iter().enumerate() {
        let image = folder.file(&format!("compressed{n}"));
        qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, &raw, &image]);
        agree(&image, Kind::Qcow2);
    }
    let image = folder.file("empty");
    qemu_img(&["create", "-q", "-f", "qcow2", &image, "5G"]);
    agree(&image, Kind::Qcow2);
}

#[test]
fn preallocated_images_before_and_after_writes() {
    for (n, options) in [
        "preallocation=metadata",
        "preallocation=metadata,cluster_size=4k",
        "preallocation=metadata,cluster_size=512,refcount_bits=1",
        "preallocation=metadata,extended_l2=on",
        "preallocation=falloc",
        "preallocation=full",
    ]
    .iter()
    .enumerate()
    {
        let folder = Folder::new();
        let image = folder.file(&format!("preallocated{n}"));
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, &image, "5M"]);
        agree(&image, Kind::Qcow2);
        // Includes the image's last cluster, behind which the file ends.
        tool("qemu-io", &["-c", "write -P 1 100k 200k", "-c", "write -P 2 5100k 20k", &image]);
        agree(&image, Kind::Qcow2);
        // When most of it is written, QEMU does not look for holes any more, and neither do we.
        tool("qemu-io", &["-c", "write -P 3 500k 4300k", &image]);
        agree(&image, Kind::Qcow2);
    }
}
