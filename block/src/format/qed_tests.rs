use std::rc::Rc;
use std::time::Duration;

use executor::Executor;

use super::header::{self, Header};
use crate::disk::switch::{DEADLINE, Target};
use crate::image::chain;
use crate::image::node::Node;
use crate::image::{self, Create};
use crate::sim::{Faults, Nature, SimDir, SimFile};
use crate::{Buf, Disk, Error, ErrorKind, Kind, Result};

pub(super) const CLUSTER: usize = 4096;
/// The places in an image by [`new_image`]: the L1 table, and its first L2 table and data cluster.
pub(super) const L1: usize = CLUSTER;
pub(super) const L2: usize = 2 * CLUSTER;
pub(super) const DATA: usize = 3 * CLUSTER;

pub(super) fn simulate<F: Future<Output = ()> + 'static>(test: impl FnOnce(Rc<SimDir>) -> F) {
    Executor::simulated(1).block_on(test(SimDir::new()));
}

fn options(size: u64) -> Create {
    let cluster_size = Some(CLUSTER as u64);
    Create { size: Some(size), cluster_size, table_size: Some(1), ..Create::default() }
}

/// An image of 1 MiB, with data of 7 in its third cluster, and zeros in its fourth.
pub(super) async fn new_image(files: &SimDir) -> Rc<SimFile> {
    image::create(files, "image", Kind::Qed, &options(1 << 20)).await.unwrap();
    let node = open(files, true).await.unwrap();
    write(&node, 2 * CLUSTER, CLUSTER, 7).await.unwrap();
    write(&node, 3 * CLUSTER, CLUSTER, 8).await.unwrap();
    node.close().await.unwrap();
    let file = files.get("image").unwrap();
    assert_eq!((word(&file, L1), word(&file, L2 + 16)), (L2 as u64, DATA as u64));
    assert_eq!(
        (word(&file, L2 + 24), file.content().len() as u64),
        ((DATA + CLUSTER) as u64, (DATA + 2 * CLUSTER) as u64)
    );
    let mut bytes = file.content();
    bytes[L2 + 24..L2 + 32].copy_from_slice(&1u64.to_le_bytes());
    bytes.truncate(DATA + CLUSTER);
    files.add("image", bytes)
}

pub(super) async fn open(files: &SimDir, writable: bool) -> Result<Rc<Node>> {
    chain::open(files, "image", Kind::Qed, writable).await
}

pub(super) async fn write(node: &Node, offset: usize, len: usize, byte: u8) -> Result<()> {
    node.write(offset as u64, Buf::from_bytes(&vec![byte; len])).await
}

pub(super) async fn read(node: &Node, offset: usize, len: usize) -> Result<Vec<u8>> {
    let buf = Buf::new(len);
    node.read(offset as u64, buf.clone()).await?;
    Ok(buf.to_vec())
}

pub(super) fn word(file: &SimFile, at: usize) -> u64 {
    u64::from_le_bytes(file.content()[at..at + 8].try_into().unwrap())
}

/// Adds the image again with some words replaced, in place of the old one.
pub(super) fn patched(files: &SimDir, file: &SimFile, words: &[(usize, u64)]) -> Rc<SimFile> {
    let mut bytes = file.content();
    for (at, word) in words {
        bytes.resize(bytes.len().max(at + 8), 0);
        bytes[*at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    files.add("image", bytes)
}

type Change<'a> = &'a dyn Fn(&mut Header);

#[test]
fn headers_out_of_bounds_are_refused_by_name() {
    let header = Header {
        cluster_size: 65536,
        table_size: 4,
        header_size: 1,
        features: 0,
        autoclear: 0,
        l1_offset: 65536,
        size: 1 << 30,
        name_offset: 0,
        name_len: 0,
    };
    let parse = |change: &dyn Fn(&mut Header)| {
        let mut header = header.clone();
        change(&mut header);
        Header::parse(&header.to_bytes(), 5 << 16).map_err(|e| e.to_string())
    };
    assert_eq!(parse(&|_| ()).unwrap(), header);
    let largest = header.max_size();
    assert_eq!(largest, 1 << 46);
    parse(&|h| h.size = 1 << 46).unwrap();
    let cases: [(Change, &str); 14] = [
        (&|h| h.features = 1 << 3 | 1 << 40, "feature bit 3, 40"),
        (&|h| h.cluster_size = 2048, "cluster size 2048"),
        (&|h| h.cluster_size = 65535, "cluster size 65535"),
        (&|h| h.cluster_size = 128 << 20, "cluster size 134217728"),
        (&|h| h.table_size = 0, "table size 0"),
        (&|h| h.table_size = 3, "table size 3"),
        (&|h| h.table_size = 32, "table size 32"),
        (&|h| h.header_size = 0, "header size 0"),
        (&|h| h.header_size = u32::MAX.into(), "header size 4294967295"),
        (&|h| h.l1_offset = 0, "L1 table"),
        (&|h| h.l1_offset = 2 << 16, "L1 table"),
        (&|h| h.l1_offset = !0xffff, "L1 table"),
        (&|h| h.size = 511, "image size 511"),
        (&|h| h.size = (1 << 46) + 512, "image size 70368744178176"),
    ];
    for (change, text) in cases {
        let error = parse(change).err().unwrap();
        assert!(error.contains(text), "{error}");
    }
    assert_eq!(Header::parse(b"QED\0short", 9).err().unwrap().kind(), ErrorKind::Corrupt);
    assert_eq!(Header::parse(b"raw", 3).err().unwrap().kind(), ErrorKind::Invalid);
    let name = |offset, len| {
        Header { features: 1, name_offset: offset, name_len: len, ..header.clone() }.backing_name()
    };
    assert_eq!(name(65530, 6).unwrap(), Some(65530..65536));
    assert_eq!(name(64, 0).unwrap(), None);
    assert!(name(65530, 7).is_err() && name(64, 1024).is_err());
    // The largest geometry maps more than any file can be long.
    let huge = Header { cluster_size: 64 << 20, table_size: 16, ..header.clone() };
    assert_eq!(huge.max_size(), i64::MAX as u64);
}

#[test]
fn options_out_of_bounds_are_refused() {
    simulate(|files| async move {
        let qed = |change: &dyn Fn(&mut Create)| {
            let mut options = options(1 << 20);
            change(&mut options);
            options
        };
        let cases = [
            (qed(&|w| w.cluster_size = Some(2048)), "cluster_size"),
            (qed(&|w| w.cluster_size = Some(12288)), "cluster_size"),
            (qed(&|w| w.table_size = Some(32)), "table_size"),
            (qed(&|w| w.size = Some((1 << 30) + 1)), "1073741824 bytes"),
            (qed(&|w| w.size = Some(u64::MAX)), "1073741824 bytes"),
            (qed(&|w| w.extended_l2 = Some(true)), "extended_l2: not an option of qed"),
        ];
        for (options, text) in cases {
            let error = image::create(&*files, "image", Kind::Qed, &options).await.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(text), "{error}");
        }
        for kind in [Kind::Qcow2, Kind::Raw] {
            assert!(image::create(&*files, "image", kind, &options(512)).await.is_err(), "table_size");
        }
        image::create(&*files, "image", Kind::Qed, &options(1 << 30)).await.unwrap();
        let info = image::info(&*files, "image", Kind::Qed).await.unwrap();
        assert_eq!((info.virtual_size, info.cluster_size), (1 << 30, Some(4096)));
    });
}

#[test]
fn disks_grow_as_far_as_the_tables_reach() {
    simulate(|files| async move {
        files.add("raw", vec![3; 4 << 20]);
        over(&files, "raw", Kind::Raw).await;
        let node = open(&files, true).await.unwrap();
        assert_eq!(node.size(), 4 << 20);
        let disk = Disk::new("virtio0", node, false, files.clone(), |_| {});
        for (size, kind) in [
            ((1 << 30) + 512, ErrorKind::Invalid),
            ((4 << 20) + 100, ErrorKind::Invalid),
            (1 << 20, ErrorKind::Unsupported),
        ] {
            assert_eq!(disk.resize(size).await.unwrap_err().kind(), kind);
        }
        disk.resize(1 << 30).await.unwrap();
        write(&disk.leaf(), (1 << 30) - 512, 512, 5).await.unwrap();
        assert_eq!(read(&disk.leaf(), (4 << 20) - 1, 2).await.unwrap(), [3, 0]);
        disk.close().await.unwrap();
        let info = image::info(&*files, "image", Kind::Qed).await.unwrap();
        assert_eq!(info.virtual_size, 1 << 30);
    });
}

#[test]
fn metadata_is_marked_before_it_changes() {
    simulate(|files| async move {
        let clean = new_image(&files).await;
        let file = patched(&files, &clean, &[(24, 0xff00), (32, 0xff)]);
        open(&files, false).await.unwrap();
        assert_eq!(word(&file, 32), 0xff);
        let node = open(&files, true).await.unwrap();
        // Compatible features are kept, features that others had to follow are cleared.
        assert_eq!((word(&file, 24), word(&file, 32)), (0xff00, 0));
        write(&node, 2 * CLUSTER, 512, 1).await.unwrap();
        assert_eq!(word(&file, 16), 0, "a write in place allocates nothing");
        let end = file.content().len() as u64;
        write(&node, 8 * CLUSTER, 512, 1).await.unwrap();
        assert_eq!(word(&file, 16), header::NEED_CHECK);
        assert!(file.content().len() as u64 > end, "space is allocated ahead");
        node.close().await.unwrap();
        assert_eq!((word(&file, 16), file.content().len() as u64), (0, end + CLUSTER as u64));
    });
}

#[test]
fn without_a_backing_file_zeroing_what_is_absent_writes_nothing() {
    simulate(|files| async move {
        let file = new_image(&files).await;
        let node = open(&files, true).await.unwrap();
        let before = file.content();
        node.write_zeroes(4 * CLUSTER as u64, (1 << 20) - 4 * CLUSTER as u64, true).await.unwrap();
        node.flush().await.unwrap();
        node.discard(0, CLUSTER as u64).await.unwrap();
        assert_eq!(file.content()[64..], before[64..], "NEED_CHECK is set at most");
    });
}

/// New space on a device reads as its old content, and its length cannot serve as the allocator.
#[test]
fn an_image_on_a_device_is_read_only() {
    simulate(|files| async move {
        let file = new_image(&files).await;
        let device = SimDir::of(Nature { fixed: true, ..Nature::default() });
        let mut bytes = file.content();
        bytes.resize(1 << 20, 0xaa);
        for dirty in [0, header::NEED_CHECK as u8] {
            bytes[16] = dirty;
            let on_it = device.add("image", bytes.clone());
            let error = open(&device, true).await.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("convert it to qcow2 or raw"), "{error}");
            for repair in [crate::image::check::Repair::Leaks, crate::image::check::Repair::All] {
                assert!(
                    crate::image::check::check(&*device, "image", Kind::Qed, Some(repair)).await.is_err()
                );
            }
            assert!(on_it.content() == bytes, "nothing is written, NEED_CHECK neither");
            let node = open(&device, false).await.unwrap();
            assert_eq!(read(&node, 2 * CLUSTER, 512).await.unwrap(), [7; 512]);
        }
        image::create(&*device, "image", Kind::Qed, &options(1 << 20)).await.unwrap_err();
    });
}

#[test]
fn zeroed_clusters_stay_with_their_entries() {
    simulate(|files| async move {
        let file = new_image(&files).await;
        let node = open(&files, true).await.unwrap();
        for round in 0..20 {
            write(&node, 8 * CLUSTER, 4 * CLUSTER, round).await.unwrap();
            node.discard(8 * CLUSTER as u64, 2 * CLUSTER as u64).await.unwrap();
            node.write_zeroes(10 * CLUSTER as u64, 2 * CLUSTER as u64, round % 2 == 0).await.unwrap();
            assert_eq!(read(&node, 8 * CLUSTER, 4 * CLUSTER).await.unwrap(), [0; 4 * CLUSTER]);
            node.flush().await.unwrap();
        }
        // The last one, so that none is missing before it.
        write(&node, 20 * CLUSTER, CLUSTER, 1).await.unwrap();
        node.close().await.unwrap();
        assert_eq!(file.content().len() as u64, (DATA + 6 * CLUSTER) as u64);
        let report = crate::image::check::check(&*files, "image", Kind::Qed, None).await.unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0));
    });
}

/// Clusters that failed writes took, or that a killed session leaked, are given at a close to entries that
/// read as zeros, so that a check finds no leak.
#[test]
fn free_clusters_are_adopted_at_a_close() {
    simulate(|files| async move {
        let file = new_image(&files).await;
        let node = open(&files, true).await.unwrap();
        // A write that fails, and what follows it in the file.
        file.set_faults(Faults {
            limit: Some(file.content().len() as u64 + CLUSTER as u64),
            ..Faults::default()
        });
        write(&node, 8 * CLUSTER, 8 * CLUSTER, 3).await.unwrap_err();
        file.set_faults(Faults::default());
        for n in 0..16 {
            write(&node, (32 + n) * CLUSTER, CLUSTER, 4).await.unwrap();
        }
        node.close().await.unwrap();
        let leaks =
            async || crate::image::check::check(&*files, "image", Kind::Qed, None).await.unwrap().leaks;
        assert_eq!(leaks().await, 0);
        // An entry that a power cut took.
        patched(&files, &file, &[(L2 + 40 * 8, 0), (16, header::NEED_CHECK)]);
        assert_eq!(leaks().await, 1);
        let node = open(&files, true).await.unwrap();
        node.close().await.unwrap();
        assert_eq!(leaks().await, 0);
        for n in 0..256 {
            let expected = match n {
                2 => 7,
                40 => 0,
                32..48 => 4,
                _ => 0,
            };
            assert_eq!(read(&node, n * CLUSTER, CLUSTER).await.unwrap(), [expected; CLUSTER], "cluster {n}");
        }
    });
}

/// A read that found its cluster before a discard sees the old content, or zeros.
#[test]
fn a_discard_under_a_read_shows_nobody_elses_data() {
    for seed in 0..500 {
        Executor::simulated(seed).block_on(async move {
            let files = SimDir::new();
            let file = new_image(&files).await;
            let node = open(&files, true).await.unwrap();
            file.set_faults(Faults { delay: 1000, ..Faults::default() });
            let reader = node.clone();
            let reading = executor::spawn(async move { read(&reader, 2 * CLUSTER, CLUSTER).await.unwrap() });
            executor::sleep(Duration::from_micros(executor::random() % 100)).await;
            node.discard(2 * CLUSTER as u64, CLUSTER as u64).await.unwrap();
            file.set_faults(Faults { delay: 50, ..Faults::default() });
            node.flush().await.unwrap();
            write(&node, 8 * CLUSTER, 2 * CLUSTER, 9).await.unwrap();
            write(&node, 6 * CLUSTER, CLUSTER, 9).await.unwrap();
            let found = reading.await.unwrap();
            assert!(found == [7; CLUSTER] || found == [0; CLUSTER], "seed {seed}: {}", found[0]);
        });
    }
}

async fn over(files: &SimDir, backing: &str, kind: Kind) {
    let options = Create { backing: Some((backing.to_owned(), kind)), size: None, ..options(0) };
    image::create(files, "image", Kind::Qed, &options).await.unwrap();
}

#[test]
fn a_backing_file_is_raw_only_where_the_image_says_so() {
    simulate(|files| async move {
        // A raw disk on which a guest wrote what looks like an image.
        let mut disk = vec![3; 64 << 10];
        disk[..4].copy_from_slice(b"QED\0");
        files.add("raw", disk);
        for kind in [Kind::Qcow2, Kind::Qed] {
            let options = Create { size: Some(32 << 10), ..Create::default() };
            image::create(&*files, kind.name(), kind, &options).await.unwrap();
        }
        for (name, kind, features) in
            [("raw", Kind::Raw, 5), ("qcow2", Kind::Qcow2, 1), ("qed", Kind::Qed, 1)]
        {
            over(&files, name, kind).await;
            assert_eq!(word(&files.get("image").unwrap(), 16), features);
            let node = open(&files, true).await.unwrap();
            assert_eq!(node.backing().unwrap().kind(), kind);
            let info = image::info(&*files, "image", Kind::Qed).await.unwrap();
            assert_eq!(info.backing.as_deref(), Some(name));
            assert_eq!(info.backing_format.as_deref(), (kind == Kind::Raw).then_some("raw"));
        }
        files.add("qed", vec![3; 32 << 10]);
        let error = open(&files, true).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().starts_with("image: its backing file qed is neither"), "{error}");
    });
}

#[test]
fn dropping_the_backing_file_changes_one_sector() {
    simulate(|files| async move {
        files.add("raw", vec![3; 64 << 10]);
        over(&files, "raw", Kind::Raw).await;
        let file = files.get("image").unwrap();
        let node = open(&files, true).await.unwrap();
        let before = file.content();
        node.format().drop_backing().await.unwrap();
        let after = file.content();
        assert_eq!((word(&file, 16), word(&file, 56)), (0, 0));
        assert_eq!((&before[64..], &before[24..56]), (&after[64..], &after[24..56]));
        assert!(image::info(&*files, "image", Kind::Qed).await.unwrap().backing.is_none());
    });
}

#[test]
fn a_change_without_format_takes_a_qed_over_the_running_image() {
    simulate(|files| async move {
        files.add("raw", vec![3; 64 << 10]);
        over(&files, "raw", Kind::Raw).await;
        let good = files.get("image").unwrap().content();
        let leaf = chain::open(&*files, "raw", Kind::Raw, true).await.unwrap();
        let disk = Disk::new("virtio0", leaf, false, files.clone(), |_| {});
        let target = Target { name: "image".into(), format: None, notify: false };
        // Not raw, says the image; the disk runs it as raw.
        let mut probed = good.clone();
        probed[16] = 1;
        files.add("image", probed);
        let error = disk.prepare_switch(&target).await.err().unwrap();
        assert!(error.to_string().contains("not raw, but it runs as raw"), "{error}");
        files.add("image", good);
        disk.prepare_switch(&target).await.unwrap().commit(DEADLINE).await.unwrap();
        assert_eq!((disk.leaf().kind(), disk.leaf().backing().unwrap().kind()), (Kind::Qed, Kind::Raw));
        // And one over that; the old leaf is closed when it becomes a backing file.
        let ticket = disk.enter().await;
        disk.write(&ticket, 512, Buf::from_bytes(&[9; 512])).await.unwrap();
        drop(ticket);
        let options = Create { backing: Some(("image".into(), Kind::Qed)), size: None, ..options(0) };
        image::create(&*files, "top", Kind::Qed, &options).await.unwrap();
        let target = Target { name: "top".into(), ..target };
        disk.prepare_switch(&target).await.unwrap().commit(DEADLINE).await.unwrap();
        assert_eq!(word(&files.get("image").unwrap(), 16), 5);
        assert_eq!(read(&disk.leaf(), 511, 2).await.unwrap(), [3, 9]);
    });
}

/// No content of an image causes a panic or takes memory without bound: it fails to open, or it works.
#[test]
fn hostile_images_do_no_harm() {
    let seeds = if cfg!(debug_assertions) { 300 } else { 5000 };
    for seed in 0..seeds {
        Executor::simulated(seed).block_on(async {
            let files = SimDir::new();
            let clean = new_image(&files).await;
            let random = |n: usize| executor::random() as usize % n;
            let places =
                [random(64) / 8 * 8, L1 + random(4) * 8, L2 + random(256) * 8, random(0x4000) / 8 * 8];
            let words: Vec<_> = (0..1 + random(4))
                .map(|_| {
                    let cluster = (random(6) * CLUSTER) as u64;
                    let values =
                        [executor::random(), cluster, cluster | 1, 1 << random(64), u64::MAX << random(64)];
                    (places[random(4)], values[random(5)])
                })
                .collect();
            patched(&files, &clean, &words);
            let writable = random(2) == 0;
            let Ok(node) = open(&files, writable).await else { return };
            let size = node.size().min(2 << 20) as usize;
            let _ = read(&node, 0, size).await;
            let attempt = async || -> std::result::Result<(), Error> {
                write(&node, size / 3, size / 4, 5).await?;
                node.discard(0, size as u64 / 2).await?;
                write(&node, 0, size / 4, 6).await?;
                node.flush().await
            };
            if writable {
                let _ = attempt().await;
                let _ = node.close().await;
            }
        });
    }
}
