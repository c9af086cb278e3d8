//! Creation options, as QEMU's tools see the result; and disks that grow on real files.

use block::image::{self, Create, Preallocation};
use block::{Buf, ErrorKind, Kind};
use serde_json::Value;

use crate::support::*;

fn create(file: &str, kind: Kind, options: Create) -> block::Result<()> {
    let file = file.to_owned();
    real(move |opener| async move { image::create(&*opener, &file, kind, &options).await })
}

fn info(image: &str) -> Value {
    serde_json::from_str(&qemu_img(&["info", "--output=json", image])).unwrap()
}

#[test]
fn preallocated_images_have_their_clusters() {
    for preallocation in [Preallocation::Metadata, Preallocation::Falloc, Preallocation::Full] {
        for (cluster, version) in [(512, 3), (4096, 2), (64 << 10, 2), (64 << 10, 3)] {
            let folder = Folder::new();
            let image = folder.file("image");
            let size = (20 << 20) + 512 * 3;
            let options = Create {
                size: Some(size),
                cluster_size: Some(cluster),
                version: Some(version),
                preallocation,
                ..Create::default()
            };
            create(&image, Kind::Qcow2, options).unwrap();
            check(&image);
            let allocated = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&image).unwrap()) * 512;
            assert_eq!(allocated >= size, preallocation != Preallocation::Metadata, "{preallocation:?}");
            let mut model = vec![0; size as usize];
            compare(&folder, &image, &model);
            let (name, mut random) = (image.clone(), Random::new(cluster));
            let length = std::fs::metadata(&image).unwrap().len();
            let model = real(move |opener| async move {
                let disk = open(&opener, &name, Kind::Qcow2).await;
                for n in 0..40 {
                    let (at, bytes) =
                        (random.below(size / 512 - 200) * 512, content(&mut random, 512 * (n + 1)));
                    let ticket = disk.enter().await;
                    disk.write(&ticket, at, Buf::from_bytes(&bytes)).await.unwrap();
                    model[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
                }
                disk.close().await.unwrap();
                model
            });
            check(&image);
            compare(&folder, &image, &model);
            // Nothing had to be allocated.
            assert_eq!(std::fs::metadata(&image).unwrap().len(), length);
        }
    }
}

#[test]
fn options_are_what_qemu_reads() {
    let folder = Folder::new();
    let image = folder.file("image");
    let options = Create { size: Some(1 << 20), lazy_refcounts: Some(true), ..Create::default() };
    create(&image, Kind::Qcow2, options).unwrap();
    assert_eq!(info(&image)["format-specific"]["data"]["lazy-refcounts"], true);
    let options = Create { size: Some(1 << 20), version: Some(2), ..Create::default() };
    create(&image, Kind::Qcow2, options).unwrap();
    assert_eq!(info(&image)["format-specific"]["data"]["compat"], "0.10");
    check(&image);
    let raw = folder.file("raw");
    for preallocation in [Preallocation::Falloc, Preallocation::Full] {
        create(&raw, Kind::Raw, Create { size: Some(5 << 20), preallocation, ..Create::default() }).unwrap();
        assert!(info(&raw)["actual-size"].as_u64().unwrap() >= 5 << 20);
    }
    let base = folder.write("base", &[1; 65536]);
    let two = Create { size: Some(1 << 20), version: Some(2), ..Create::default() };
    for wrong in [
        Create { lazy_refcounts: Some(true), ..two.clone() },
        Create { extended_l2: Some(true), ..two.clone() },
        Create { refcount_bits: Some(8), ..two },
        Create {
            backing: Some((base, Kind::Raw)),
            extended_l2: Some(false),
            preallocation: Preallocation::Metadata,
            ..Create::default()
        },
    ] {
        assert_eq!(create(&image, Kind::Qcow2, wrong).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn disks_grow_into_sound_images() {
    let layouts =
        ["cluster_size=64k", "cluster_size=512", "extended_l2=on", "compat=0.10", "lazy_refcounts=on"];
    for (seed, options) in layouts.into_iter().enumerate() {
        let folder = Folder::new();
        let mut random = Random::new(seed as u64);
        let base = folder.write("base", &content(&mut random, 3 << 20));
        let image = folder.file("image");
        let size = (1 << 20) + 512 * 5;
        let arguments = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &base, "-o", options, &image];
        qemu_img(&[&arguments[..], &[&size.to_string()]].concat());
        let name = image.clone();
        let model = real(move |opener| async move {
            let disk = open(&opener, &name, Kind::Qcow2).await;
            let mut model = read(&disk, 0, size).await;
            for to in [size + 512, 2 << 20, (4 << 20) + 512 * 7, 40 << 20] {
                scribble(&disk, &mut model, &mut random, 10).await;
                disk.resize(to as u64).await.unwrap();
                model.resize(to, 0);
            }
            scribble(&disk, &mut model, &mut random, 10).await;
            assert!(read(&disk, 0, model.len()).await == model, "{options}");
            disk.close().await.unwrap();
            model
        });
        assert_eq!(info(&image)["virtual-size"], model.len());
        check(&image);
        compare(&folder, &image, &model);
    }
}
