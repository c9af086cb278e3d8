//! Images that QEMU's tools made, written by us, and the other way round.

use block::image::{self, Create};
use block::{DiskEvent, Kind};

use crate::support::{
    Folder, MODES, Random, check, compare, exercise, info, open, qemu_img, real, stream, tool, verify,
};

/// A size in bytes that is a multiple of nothing but the sector.
const SIZE: usize = (5 << 20) + 512 * 37;

fn qemu_io(image: &str, commands: &[&str]) {
    let mut arguments = vec!["-f", "qcow2"];
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    arguments.push(image);
    tool("qemu-io", &arguments);
}

#[test]
fn what_we_create_and_write_is_what_qemu_reads() {
    let mut seed = 0;
    for bits in 9..=21 {
        for (extended, backing) in [(false, false), (true, true), (false, true), (true, false)] {
            if extended && bits < 14 {
                continue;
            }
            seed += 1;
            let mode = MODES[seed as usize % 4];
            let refcount_bits = 1 << (seed % 7);
            let what = format!(
                "cluster_bits {bits}, extended {extended}, backing {backing}, refcount_bits {refcount_bits}, {mode:?}"
            );
            println!("{what}");
            real(mode, move |opener| async move {
                let folder = Folder::new();
                let mut random = Random::new(seed);
                let mut model = vec![0; SIZE];
                let leaf = folder.file("leaf");
                let options = Create {
                    size: (!backing).then_some(SIZE as u64),
                    backing: backing.then(|| ("base".to_owned(), Kind::Raw)),
                    cluster_size: Some(1 << bits),
                    extended_l2: Some(extended),
                    refcount_bits: Some(refcount_bits),
                    ..Create::default()
                };
                if backing {
                    let at = random.below(SIZE as u64 / 2) as usize;
                    let bytes = random.bytes(SIZE / 3);
                    model[at..at + bytes.len()].copy_from_slice(&bytes);
                    folder.write("base", &model);
                }
                image::create(&*opener, &leaf, Kind::Qcow2, &options).await.unwrap();
                check(&leaf);
                let said = info(&leaf);
                assert_eq!(said["virtual-size"], SIZE);
                assert_eq!(said["cluster-size"], 1u64 << bits);
                let data = &said["format-specific"]["data"];
                assert_eq!(data["refcount-bits"], refcount_bits);
                assert_eq!(data["extended-l2"], extended);
                assert_eq!(said["backing-filename-format"].as_str(), backing.then_some("raw"));
                let ours = image::info(&*opener, &leaf, Kind::Qcow2).await.unwrap();
                assert_eq!(ours.virtual_size, SIZE as u64);

                for _ in 0..2 {
                    let disk = open(&opener, &leaf, Kind::Qcow2).await;
                    verify(&disk, &model).await;
                    exercise(&disk, &mut model, &mut random, 12).await;
                    verify(&disk, &model).await;
                    disk.close().await.unwrap();
                    drop(disk);
                    check(&leaf);
                    compare(&folder, &leaf, "qcow2", &model);
                }
                if backing {
                    let (disk, event) = stream(&opener, &leaf, Kind::Qcow2).await;
                    let DiskEvent::StreamCompleted { error, .. } = event else { unreachable!() };
                    assert_eq!(error, None);
                    disk.close().await.unwrap();
                    drop(disk);
                    std::fs::remove_file(folder.file("base")).unwrap();
                    check(&leaf);
                    assert!(info(&leaf).get("backing-filename").is_none());
                    compare(&folder, &leaf, "qcow2", &model);
                }
            });
        }
    }
}

#[test]
fn chains_that_qemu_made_are_read_written_and_streamed() {
    let layouts = [
        "compat=0.10,cluster_size=512",
        "compat=0.10,cluster_size=4k",
        "compat=0.10",
        "compat=1.1,cluster_size=512,refcount_bits=1",
        "compat=1.1,cluster_size=1k,refcount_bits=64",
        "compat=1.1,cluster_size=64k,lazy_refcounts=on",
        "compat=1.1,cluster_size=2M,refcount_bits=2",
        "compat=1.1,cluster_size=16k,extended_l2=on,refcount_bits=8",
        "compat=1.1,cluster_size=128k,extended_l2=on,refcount_bits=4",
        "compat=1.1,cluster_size=64k,preallocation=metadata",
    ];
    for (n, layout) in layouts.into_iter().enumerate() {
        println!("{layout}");
        real(MODES[n % 4], move |opener| async move {
            let folder = Folder::new();
            let mut random = Random::new(n as u64);
            // The base is shorter than the disks over it, and not a multiple of a sector.
            let short = 3 << 20;
            let mut model = random.bytes(short + 100);
            model[1 << 20..2 << 20].fill(0);
            let base = folder.write("base", &model);
            model.resize(SIZE, 0);
            let (middle, leaf) = (folder.file("middle"), folder.file("leaf"));
            let size = SIZE.to_string();
            // Preallocated metadata and backing files exclude each other.
            let preallocated = layout.contains("preallocation");
            let backed = layout.replace(",preallocation=metadata", "");
            let over = ["-F", "raw", "-b", &base, &middle, &size];
            qemu_img(&[&["create", "-q", "-f", "qcow2", "-o", &backed][..], &over].concat());
            qemu_io(&middle, &["write -P 0x11 100k 300k", "write -P 0x12 4M 7k", "write -z 2M 128k"]);
            model[100 << 10..400 << 10].fill(0x11);
            model[4 << 20..(4 << 20) + (7 << 10)].fill(0x12);
            model[2 << 20..(2 << 20) + (128 << 10)].fill(0);
            if preallocated {
                model = vec![0; SIZE];
                qemu_img(&["create", "-q", "-f", "qcow2", "-o", layout, &leaf, &size]);
            } else {
                let over = ["-F", "qcow2", "-b", "middle", &leaf, &size];
                qemu_img(&[&["create", "-q", "-f", "qcow2", "-o", &backed][..], &over].concat());
            }
            qemu_io(&leaf, &["write -P 0x21 300k 200k", "write -P 0x22 5M 512"]);
            model[300 << 10..500 << 10].fill(0x21);
            model[5 << 20..(5 << 20) + 512].fill(0x22);

            let disk = open(&opener, &leaf, Kind::Qcow2).await;
            verify(&disk, &model).await;
            exercise(&disk, &mut model, &mut random, 15).await;
            disk.close().await.unwrap();
            drop(disk);
            check(&leaf);
            compare(&folder, &leaf, "qcow2", &model);
            // In turns: QEMU writes again, then we.
            qemu_io(&leaf, &["write -P 0x31 1M 70k", "discard 3M 256k", "write -z 4M 64k"]);
            model[1 << 20..(1 << 20) + (70 << 10)].fill(0x31);
            let raw = folder.file("converted");
            qemu_img(&["convert", "-f", "qcow2", "-O", "raw", &leaf, &raw]);
            model = std::fs::read(&raw).unwrap();
            let (disk, event) = stream(&opener, &leaf, Kind::Qcow2).await;
            let DiskEvent::StreamCompleted { error, offset, .. } = event else { unreachable!() };
            assert_eq!((error, offset), (None, SIZE as u64));
            verify(&disk, &model).await;
            exercise(&disk, &mut model, &mut random, 5).await;
            disk.close().await.unwrap();
            drop(disk);
            std::fs::remove_file(&middle).unwrap();
            std::fs::remove_file(&base).unwrap();
            assert!(info(&leaf).get("backing-filename").is_none());
            check(&leaf);
            compare(&folder, &leaf, "qcow2", &model);
        });
    }
}

#[test]
fn internal_snapshots_stay_what_they_were() {
    let layouts = [
        "compat=0.10,cluster_size=4k",
        "compat=0.10,cluster_size=512",
        "compat=1.1,cluster_size=64k",
        "compat=1.1,cluster_size=2M,refcount_bits=4",
        "compat=1.1,cluster_size=16k,extended_l2=on",
        "compat=1.1,cluster_size=512,refcount_bits=64",
    ];
    for (n, layout) in layouts.into_iter().enumerate() {
        println!("{layout}");
        real(MODES[n % 4], move |opener| async move {
            let folder = Folder::new();
            let mut random = Random::new(100 + n as u64);
            let mut model = random.bytes(SIZE);
            folder.write("base", &model);
            let leaf = folder.file("leaf");
            qemu_img(&[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-o",
                layout,
                "-F",
                "raw",
                "-b",
                &folder.file("base"),
                &leaf,
            ]);
            qemu_io(&leaf, &["write -P 0x41 0 1M", "write -P 0x42 3000k 700k", "write -z 2M 300k"]);
            model[..1 << 20].fill(0x41);
            model[3000 << 10..3700 << 10].fill(0x42);
            model[2 << 20..(2 << 20) + (300 << 10)].fill(0);
            let mut snapshots = Vec::new();
            for name in ["one", "two"] {
                qemu_img(&["snapshot", "-q", "-c", name, &leaf]);
                snapshots.push((name, model.clone()));
                let disk = open(&opener, &leaf, Kind::Qcow2).await;
                verify(&disk, &model).await;
                exercise(&disk, &mut model, &mut random, 12).await;
                verify(&disk, &model).await;
                disk.close().await.unwrap();
                drop(disk);
                check(&leaf);
                compare(&folder, &leaf, "qcow2", &model);
            }
            for (name, content) in &snapshots {
                let raw = folder.file("snapshot.raw");
                qemu_img(&["convert", "-f", "qcow2", "-O", "raw", "-l", name, &leaf, &raw]);
                assert!(std::fs::read(&raw).unwrap() == *content, "snapshot {name} was changed");
            }
            // QEMU continues with the refcounts that we wrote.
            qemu_img(&["snapshot", "-q", "-d", "one", &leaf]);
            check(&leaf);
            qemu_img(&["snapshot", "-q", "-a", "two", &leaf]);
            check(&leaf);
            compare(&folder, &leaf, "qcow2", &snapshots[1].1);
            let disk = open(&opener, &leaf, Kind::Qcow2).await;
            model = snapshots[1].1.clone();
            exercise(&disk, &mut model, &mut random, 6).await;
            disk.close().await.unwrap();
            drop(disk);
            qemu_img(&["snapshot", "-q", "-d", "two", &leaf]);
            check(&leaf);
            compare(&folder, &leaf, "qcow2", &model);
        });
    }
}

#[test]
fn raw_files_of_any_length() {
    for mode in MODES {
        real(mode, move |opener| async move {
            let folder = Folder::new();
            for len in [1, 511, 512, 1000, 4096, 4097, 100 * 512, 70001] {
                let mut random = Random::new(len as u64);
                let bytes = random.bytes(len);
                let name = folder.write("disk", &bytes);
                let mut model = bytes.clone();
                model.resize(len.next_multiple_of(512), 0);
                let disk = open(&opener, &name, Kind::Raw).await;
                verify(&disk, &model).await;
                if model.len() >= 4 * 512 {
                    exercise(&disk, &mut model, &mut random, 20).await;
                }
                let last = model.len() - 512;
                let sector = random.bytes(512);
                let ticket = disk.enter().await;
                disk.write(&ticket, last as u64, block::Buf::from_bytes(&sector)).await.unwrap();
                drop(ticket);
                model[last..].copy_from_slice(&sector);
                verify(&disk, &model).await;
                disk.close().await.unwrap();
                assert_eq!(std::fs::read(&name).unwrap().len(), model.len(), "the file grew past its disk");
                compare(&folder, &name, "raw", &model);
            }
        });
    }
}
