//! QED images that QEMU's tools made, written by us, and the other way round.

use block::image::{self, Create};
use block::{DiskEvent, Kind, chain, check};

use crate::support::{
    Folder, MODES, Random, compare, exercise, open, qemu_img, real, stream, tool, try_tool, verify,
};

/// A size in bytes that is a multiple of nothing but the sector.
const SIZE: usize = (5 << 20) + 512 * 37;

fn qemu_io(image: &str, commands: &[&str]) {
    let mut arguments = vec!["-f", "qed"];
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    arguments.push(image);
    tool("qemu-io", &arguments);
}

/// Checks that there is no corruption, and no leaked cluster.
fn check_clean(image: &str) {
    qemu_img(&["check", "-q", "-f", "qed", image]);
}

fn features(image: &str) -> u8 {
    std::fs::read(image).unwrap()[16]
}

#[test]
fn what_we_create_and_write_is_what_qemu_reads() {
    // Without layouts that the specification allows and QEMU refuses: tables of one cluster, and
    // geometries that map 2^64 bytes or more.
    let layouts = [(4 << 10, 2), (4 << 10, 16), (64 << 10, 4), (64 << 10, 2), (1 << 20, 2), (4 << 20, 2)];
    for (n, (cluster, table)) in layouts.into_iter().enumerate() {
        for backing in [None, Some(Kind::Raw), Some(Kind::Qcow2), Some(Kind::Qed)] {
            println!("cluster_size {cluster}, table_size {table}, backing {backing:?}");
            real(MODES[n % 4], move |opener| async move {
                let folder = Folder::new();
                let mut random = Random::new(n as u64);
                let mut model = vec![0; SIZE];
                let leaf = folder.file("leaf");
                let options = Create {
                    size: Some(SIZE as u64),
                    backing: backing.map(|kind| ("base".to_owned(), kind)),
                    cluster_size: Some(cluster),
                    table_size: Some(table),
                    ..Create::default()
                };
                if let Some(kind) = backing {
                    // Longer than the disk or shorter.
                    let len = SIZE / 2 + random.below(SIZE as u64) as usize / 512 * 512;
                    let raw = folder.write("raw", &random.bytes(len));
                    let name = folder.file("base");
                    qemu_img(&["convert", "-f", "raw", "-O", kind.name(), &raw, &name]);
                    let bytes = std::fs::read(&raw).unwrap();
                    let len = len.min(SIZE);
                    model[..len].copy_from_slice(&bytes[..len]);
                }
                image::create(&*opener, &leaf, Kind::Qed, &options).await.unwrap();
                check_clean(&leaf);
                let ours = image::info(&*opener, &leaf, Kind::Qed).await.unwrap();
                let theirs = qemu_img(&["info", "--output=json", "-f", "qed", &leaf]);
                let theirs: serde_json::Value = serde_json::from_str(&theirs).unwrap();
                assert_eq!(theirs["virtual-size"], ours.virtual_size);
                assert_eq!(theirs["cluster-size"], ours.cluster_size.unwrap());
                assert_eq!(theirs["backing-filename"].as_str(), ours.backing.as_deref());
                assert_eq!(theirs["backing-filename-format"].as_str(), ours.backing_format.as_deref());

                for _ in 0..2 {
                    let disk = open(&opener, &leaf, Kind::Qed).await;
                    verify(&disk, &model).await;
                    exercise(&disk, &mut model, &mut random, 12).await;
                    verify(&disk, &model).await;
                    disk.close().await.unwrap();
                    drop(disk);
                    assert_eq!(features(&leaf) & 2, 0);
                    check_clean(&leaf);
                    compare(&folder, &leaf, "qed", &model);
                }
                if backing.is_some() {
                    let (disk, event) = stream(&opener, &leaf, Kind::Qed).await;
                    let DiskEvent::StreamCompleted { error, .. } = event else { unreachable!() };
                    assert_eq!(error, None);
                    disk.close().await.unwrap();
                    drop(disk);
                    std::fs::remove_file(folder.file("base")).unwrap();
                    check_clean(&leaf);
                    assert_eq!(features(&leaf), 0);
                    compare(&folder, &leaf, "qed", &model);
                }
            });
        }
    }
}

#[test]
fn chains_that_qemu_made_are_read_written_and_streamed() {
    let layouts = ["cluster_size=4k,table_size=2", "cluster_size=64k", "cluster_size=2M,table_size=8"];
    for (n, layout) in layouts.into_iter().enumerate() {
        println!("{layout}");
        real(MODES[n % 4], move |opener| async move {
            let folder = Folder::new();
            let mut random = Random::new(n as u64);
            // The base is shorter than the disks over it, and not a multiple of a sector.
            let mut model = random.bytes((3 << 20) + 100);
            let base = folder.write("base", &model);
            model.resize(SIZE, 0);
            let (middle, leaf) = (folder.file("middle"), folder.file("leaf"));
            let size = SIZE.to_string();
            let create = ["create", "-q", "-f", "qed", "-o", layout];
            qemu_img(&[&create[..], &["-F", "raw", "-b", &base, &middle, &size]].concat());
            qemu_io(&middle, &["write -P 0x11 100k 300k", "write -P 0x12 4M 7k", "write -z 2M 128k"]);
            model[100 << 10..400 << 10].fill(0x11);
            model[4 << 20..(4 << 20) + (7 << 10)].fill(0x12);
            model[2 << 20..(2 << 20) + (128 << 10)].fill(0);
            qemu_img(&[&create[..], &["-F", "qed", "-b", "middle", &leaf, &size]].concat());
            qemu_io(&leaf, &["write -P 0x21 300k 200k", "write -P 0x22 5M 512"]);
            model[300 << 10..500 << 10].fill(0x21);
            model[5 << 20..(5 << 20) + 512].fill(0x22);

            let disk = open(&opener, &leaf, Kind::Qed).await;
            verify(&disk, &model).await;
            exercise(&disk, &mut model, &mut random, 15).await;
            disk.close().await.unwrap();
            drop(disk);
            check_clean(&leaf);
            compare(&folder, &leaf, "qed", &model);
            // In turns: QEMU writes again, then we.
            qemu_io(&leaf, &["write -P 0x31 1M 70k", "write -z 4M 64k"]);
            model[1 << 20..(1 << 20) + (70 << 10)].fill(0x31);
            model[4 << 20..(4 << 20) + (64 << 10)].fill(0);
            let (disk, event) = stream(&opener, &leaf, Kind::Qed).await;
            let DiskEvent::StreamCompleted { error, offset, .. } = event else { unreachable!() };
            assert_eq!((error, offset), (None, SIZE as u64));
            verify(&disk, &model).await;
            exercise(&disk, &mut model, &mut random, 5).await;
            disk.close().await.unwrap();
            drop(disk);
            std::fs::remove_file(&middle).unwrap();
            std::fs::remove_file(&base).unwrap();
            check_clean(&leaf);
            compare(&folder, &leaf, "qed", &model);
        });
    }
}

#[test]
fn an_image_that_was_not_closed_is_repaired_by_us_or_by_qemu() {
    for ours in [true, false] {
        real(MODES[0], move |opener| async move {
            let folder = Folder::new();
            let mut random = Random::new(7);
            let mut model = vec![0; SIZE];
            let leaf = folder.file("leaf");
            let size = SIZE.to_string();
            qemu_img(&["create", "-q", "-f", "qed", "-o", "cluster_size=4k,table_size=2", &leaf, &size]);
            let disk = open(&opener, &leaf, Kind::Qed).await;
            exercise(&disk, &mut model, &mut random, 12).await;
            let ticket = disk.enter().await;
            disk.flush(&ticket).await.unwrap();
            // The image as a process that dies now leaves it.
            let copy = folder.file("copy");
            std::fs::copy(&leaf, &copy).unwrap();
            assert_eq!(features(&copy), 2);
            if ours {
                let before = std::fs::metadata(&copy).unwrap().len();
                let disk = open(&opener, &copy, Kind::Qed).await;
                assert!(
                    std::fs::metadata(&copy).unwrap().len() < before,
                    "what was allocated ahead is trimmed"
                );
                verify(&disk, &model).await;
                disk.close().await.unwrap();
            } else {
                // Exits with 3, since it leaves leaks.
                try_tool("qemu-img", &["check", "-q", "-f", "qed", "-r", "all", &copy]);
            }
            assert_eq!(features(&copy), 0);
            // We reuse what the dead process has leaked; QEMU leaves it.
            let check = try_tool("qemu-img", &["check", "-f", "qed", &copy]);
            assert!(check.status.code() == Some(0) || !ours && check.status.code() == Some(3), "{check:?}");
            compare(&folder, &copy, "qed", &model);
            drop(ticket);
            disk.close().await.unwrap();
        });
    }
}

/// QED cannot record that a cluster is free, but its space in the host's file can be freed. The cluster
/// is not leaked: an entry that reads as zeros keeps it.
#[test]
fn discarded_clusters_leave_the_hosts_file() {
    use std::os::unix::fs::MetadataExt;
    const MIB: u64 = 1 << 20;
    real(MODES[0], |opener| async move {
        let folder = Folder::new();
        let leaf = folder.file("leaf");
        let options = Create { size: Some(64 * MIB), ..Create::default() };
        image::create(&*opener, &leaf, Kind::Qed, &options).await.unwrap();
        let mut model = Random::new(1).bytes(32 << 20);
        let disk = open(&opener, &leaf, Kind::Qed).await;
        let ticket = disk.enter().await;
        disk.write(&ticket, 0, block::Buf::from_bytes(&model)).await.unwrap();
        for at in (8..16).map(|at| at * MIB) {
            disk.discard(&ticket, at, MIB).await.unwrap();
            disk.write_zeroes(&ticket, at + 8 * MIB, MIB, true).await.unwrap();
        }
        drop(ticket);
        disk.close().await.unwrap();
        drop(disk);
        model[8 << 20..24 << 20].fill(0);
        model.resize(64 << 20, 0);
        let metadata = std::fs::metadata(&leaf).unwrap();
        assert!(metadata.len() > 32 * MIB, "data stays behind what was discarded");
        assert!(metadata.blocks() * 512 < 18 * MIB, "{} bytes are left", metadata.blocks() * 512);
        check_clean(&leaf);
        compare(&folder, &leaf, "qed", &model);
        let report = check::check(&*opener, &leaf, Kind::Qed, None).await.unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0));
    });
}

/// A file whose tables alone are 1 GiB each, and a disk of 4 EiB, in little memory and time.
#[test]
fn the_largest_geometry() {
    real(MODES[0], |opener| async move {
        let folder = Folder::new();
        let leaf = folder.file("leaf");
        let options = Create {
            size: Some(1 << 62),
            cluster_size: Some(64 << 20),
            table_size: Some(16),
            ..Create::default()
        };
        image::create(&*opener, &leaf, Kind::Qed, &options).await.unwrap();
        let node = chain::open(&*opener, &leaf, Kind::Qed, true).await.unwrap();
        assert_eq!((node.size(), node.cluster_size()), (1 << 62, 64 << 20));
        drop(node);
        let disk = open(&opener, &leaf, Kind::Qed).await;
        let offset = (1 << 61) + 512;
        let ticket = disk.enter().await;
        disk.write(&ticket, offset, block::Buf::from_bytes(&[5; 512])).await.unwrap();
        disk.flush(&ticket).await.unwrap();
        drop(ticket);
        // NEED_CHECK is set: the copy, as sparse as the file, is checked.
        let copy = folder.file("copy");
        tool("cp", &["--sparse=always", &leaf, &copy]);
        let again = open(&opener, &copy, Kind::Qed).await;
        assert_eq!(crate::support::read(&again, offset, 512).await, [5; 512]);
        again.close().await.unwrap();
        disk.close().await.unwrap();
    });
}
