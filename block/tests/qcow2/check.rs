//! `check` and `qemu-img check` agree on damaged images, and repaired ones satisfy both.

use block::check::{Repair, Report, check as our_check};
use block::{ErrorKind, Kind};
use serde_json::Value;

use crate::support::*;

fn ours(image: &str, repair: Option<Repair>) -> block::Result<Report> {
    let image = image.to_owned();
    real(move |opener| async move { our_check(&*opener, &image, Kind::Qcow2, repair).await })
}

fn theirs(image: &str) -> Value {
    let output = try_tool("qemu-img", &["check", "-f", "qcow2", "--output=json", image]);
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

/// Checks that all numbers are the same.
fn agree(image: &str, damage: &str) -> Report {
    let (ours, theirs) = (ours(image, None).unwrap(), theirs(image));
    let number = |key: &str| theirs.get(key).map_or(0, |n| n.as_u64().unwrap());
    for (what, n) in [
        ("corruptions", ours.corruptions),
        ("leaks", ours.leaks),
        ("total-clusters", ours.total_clusters),
        ("allocated-clusters", ours.allocated_clusters),
        ("fragmented-clusters", ours.fragmented_clusters),
        ("compressed-clusters", ours.compressed_clusters),
        ("image-end-offset", ours.image_end),
    ] {
        assert_eq!(n, number(what), "{damage}: {what}\n{ours:#?}\n{theirs:#}");
    }
    ours
}

/// Bytes of an image, read and patched by their meaning.
struct Patch {
    path: String,
    bytes: Vec<u8>,
}

impl Patch {
    fn new(path: &str) -> Patch {
        Patch { path: path.to_owned(), bytes: std::fs::read(path).unwrap() }
    }

    fn u64(&self, at: u64) -> u64 {
        u64::from_be_bytes(self.bytes[at as usize..at as usize + 8].try_into().unwrap())
    }

    fn set(&mut self, at: u64, value: u64) {
        self.bytes[at as usize..at as usize + 8].copy_from_slice(&value.to_be_bytes());
    }

    fn cluster_bits(&self) -> u64 {
        self.u64(16) & 0xff
    }

    /// Returns the offset of the first L2 table with entries.
    fn l2(&self) -> u64 {
        let l1 = self.u64(40);
        (0..).map(|n| self.u64(l1 + n * 8)).find(|entry| *entry != 0).unwrap() & 0x00ff_ffff_ffff_fe00
    }

    /// Returns the offsets of the L2 entries with host clusters, which have 8 or 16 bytes each.
    fn entries(&self) -> Vec<u64> {
        let step = if self.u64(72) & 16 != 0 { 16 } else { 8 };
        let table = self.l2()..self.l2() + (1 << self.cluster_bits());
        table.step_by(step).filter(|at| self.u64(*at) & 0x00ff_ffff_ffff_fe00 != 0).collect()
    }

    /// Returns the offset of a cluster's 16-bit refcount.
    fn refcount_at(&self, offset: u64) -> usize {
        let bits = self.cluster_bits();
        let (cluster, per_block) = (offset >> bits, 1 << (bits - 1));
        let block = self.u64(self.u64(48) + cluster / per_block * 8);
        (block + cluster % per_block * 2) as usize
    }

    fn set_refcount(&mut self, offset: u64, count: u16) {
        let at = self.refcount_at(offset);
        self.bytes[at..at + 2].copy_from_slice(&count.to_be_bytes());
    }

    fn write(&self) {
        std::fs::write(&self.path, &self.bytes).unwrap();
    }
}

type Damage = fn(&mut Patch);

const HOST: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;

/// Creates an image with data and zeros and, with `snapshot`, a snapshot that shares some of it, and a
/// bitmap. Returns its name and content.
fn image(folder: &Folder, options: &str, snapshot: bool) -> (String, Vec<u8>) {
    let image = folder.file("image");
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, &image, "4M"]);
    tool(
        "qemu-io",
        &["-c", "write -P 1 0 600k", "-c", "write -P 2 1M 300k", "-c", "write -z 2M 200k", &image],
    );
    if snapshot {
        qemu_img(&["snapshot", "-c", "one", &image]);
        tool("qemu-io", &["-c", "write -P 3 64k 128k", &image]);
        if !options.contains("compat=0.10") {
            qemu_img(&["bitmap", "--add", &image, "bits"]);
            tool("qemu-io", &["-c", "write -P 4 3M 64k", &image]);
        }
    }
    let content = folder.file("content");
    qemu_img(&["convert", "-f", "qcow2", "-O", "raw", &image, &content]);
    let content = std::fs::read(content).unwrap();
    (image, content)
}

/// Returns the content of the snapshot.
fn snapshot_content(folder: &Folder, image: &str) -> Vec<u8> {
    let raw = folder.file("snapshot.raw");
    qemu_img(&["convert", "-l", "snapshot.name=one", "-f", "qcow2", "-O", "raw", image, &raw]);
    std::fs::read(raw).unwrap()
}

const LAYOUTS: [&str; 4] =
    ["cluster_size=64k", "cluster_size=4k", "cluster_size=64k,extended_l2=on", "compat=0.10,cluster_size=4k"];

#[test]
fn sound_images() {
    for options in LAYOUTS.iter().chain(&["refcount_bits=1", "refcount_bits=64", "cluster_size=512"]) {
        for snapshot in [false, !options.contains("refcount_bits=1")] {
            let folder = Folder::new();
            let (image, _) = image(&folder, options, snapshot);
            let report = agree(&image, options);
            assert_eq!((report.corruptions, report.leaks), (0, 0));
        }
    }
    let folder = Folder::new();
    let raw = folder.write("raw", &content(&mut Random::new(1), 3 << 20));
    for options in ["cluster_size=64k", "cluster_size=512", "cluster_size=2M"] {
        let image = folder.file("compressed");
        qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, &raw, &image]);
        agree(&image, options);
    }
}

#[test]
fn damage_is_told_as_qemu_tells_it_and_repaired() {
    // The names of the damages, and functions that do them.
    let damages: [(&str, Damage); 9] = [
        ("a refcount of 0", |p| p.set_refcount(p.u64(p.entries()[3]) & HOST, 0)),
        ("a refcount of 5", |p| p.set_refcount(p.u64(p.entries()[3]) & HOST, 5)),
        ("many refcounts wrong", |p| {
            for (n, at) in p.entries().into_iter().enumerate() {
                p.set_refcount(p.u64(at) & HOST, (n % 5) as u16);
            }
        }),
        ("an L2 table's refcount", |p| p.set_refcount(p.l2(), 0)),
        ("the header's refcount", |p| p.set_refcount(0, 0)),
        ("COPIED flipped", |p| {
            let at = p.entries()[5];
            p.set(at, p.u64(at) ^ COPIED);
        }),
        ("COPIED flipped in L1", |p| p.set(p.u64(40), p.u64(p.u64(40)) ^ COPIED)),
        ("a leaked cluster", |p| {
            let end = p.bytes.len() as u64;
            p.bytes.resize(end as usize + (1 << p.cluster_bits()), 7);
            p.set_refcount(end, 3);
        }),
        ("a refcount block that is an L2 table", |p| p.set(p.u64(48), p.l2())),
    ];
    for options in LAYOUTS {
        for snapshot in [false, true] {
            for (damage, patch) in damages {
                let folder = Folder::new();
                let (image, content) = image(&folder, options, snapshot);
                let before = if snapshot { snapshot_content(&folder, &image) } else { Vec::new() };
                let mut bytes = Patch::new(&image);
                patch(&mut bytes);
                bytes.write();
                let what = format!("{damage}, {options}, snapshot {snapshot}");
                let structural = damage.contains("block");
                let found = if structural { ours(&image, None).unwrap() } else { agree(&image, &what) };
                assert!(found.corruptions + found.leaks > 0, "{what}");

                // Leaks only: corruptions stay, and data is not touched.
                let leaks = ours(&image, Some(Repair::Leaks)).unwrap();
                assert!(structural || leaks.leaks == 0, "{what}: {leaks:#?}");
                assert_eq!(verdict(&image), if leaks.corruptions > 0 { 2 } else { 0 }, "{what}");

                let report = ours(&image, Some(Repair::All)).unwrap();
                assert_eq!((report.corruptions, report.leaks), (0, 0), "{what}: {report:#?}");
                check(&image);
                compare(&folder, &image, &content);
                if snapshot {
                    assert!(snapshot_content(&folder, &image) == before, "{what}");
                }
            }
        }
    }
}

#[test]
fn two_entries_for_one_cluster_are_separated_by_the_next_write() {
    let folder = Folder::new();
    let (image, mut content) = image(&folder, "cluster_size=64k", false);
    let mut patch = Patch::new(&image);
    let (one, other) = (patch.entries()[2], patch.entries()[7]);
    patch.set(other, patch.u64(one));
    patch.write();
    agree(&image, "a doubled cluster");
    let report = ours(&image, Some(Repair::All)).unwrap();
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{report:#?}");
    check(&image);
    let name = image.clone();
    real(move |opener| async move {
        let disk = open(&opener, &name, Kind::Qcow2).await;
        let ticket = disk.enter().await;
        disk.write(&ticket, 7 << 16, block::Buf::from_bytes(&[9; 512])).await.unwrap();
        drop(ticket);
        disk.close().await.unwrap();
    });
    content[7 << 16..][..512].fill(9);
    compare(&folder, &image, &content);
    // The other entry is the only one now, but not marked COPIED: that costs no more than an unneeded copy.
    assert_eq!(agree(&image, "a separated cluster").corruptions, 1);
    ours(&image, Some(Repair::All)).unwrap();
    check(&image);
}

#[test]
fn what_cannot_be_repaired_stays_told() {
    let cases: [(&str, Damage); 3] = [
        ("data past the end", |p| p.set(p.entries()[1], COPIED | 1 << 40)),
        ("data that is not aligned", |p| p.set(p.entries()[1], p.u64(p.entries()[1]) + 512)),
        ("an L2 table past the end", |p| p.set(p.u64(40), COPIED | 1 << 40)),
    ];
    for (damage, patch) in cases {
        let folder = Folder::new();
        let (image, _) = image(&folder, "cluster_size=64k", false);
        let mut bytes = Patch::new(&image);
        patch(&mut bytes);
        bytes.write();
        assert_eq!(verdict(&image), 2, "{damage}");
        assert!(ours(&image, None).unwrap().corruptions > 0, "{damage}");
        assert!(ours(&image, Some(Repair::All)).unwrap().corruptions > 0, "{damage}");
    }
}

#[test]
fn contradictions_of_subclusters_become_data() {
    let folder = Folder::new();
    let (image, content) = image(&folder, "cluster_size=64k,extended_l2=on", false);
    let mut patch = Patch::new(&image);
    let at = patch.entries()[2] + 8;
    patch.set(at, patch.u64(at) | 0xff << 32);
    patch.write();
    assert_eq!(verdict(&image), 2);
    assert!(ours(&image, None).unwrap().corruptions > 0);
    assert_eq!(ours(&image, Some(Repair::All)).unwrap().corruptions, 0);
    check(&image);
    compare(&folder, &image, &content);
}

#[test]
fn marks_are_heeded_and_cleared() {
    let folder = Folder::new();
    let (image, content) = image(&folder, "lazy_refcounts=on", false);
    let open_to_write = |image: &str| {
        let image = image.to_owned();
        real(move |opener| async move {
            let disk = block::chain::open(&*opener, &image, Kind::Qcow2, true).await;
            disk.map(|_| ())
        })
    };
    // Corrupt: read but not written.
    let mut patch = Patch::new(&image);
    patch.set(72, 2);
    patch.write();
    let error = open_to_write(&image).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(&image), "{error}");
    let name = image.clone();
    real(move |opener| async move {
        block::chain::open(&*opener, &name, Kind::Qcow2, false).await.unwrap();
    });
    ours(&image, Some(Repair::All)).unwrap();
    assert_eq!(Patch::new(&image).u64(72), 0);

    // Dirty, with stale refcounts: repaired by opening it for writing, not by reading.
    let mut patch = Patch::new(&image);
    patch.set(72, 1);
    for at in patch.entries() {
        patch.set_refcount(patch.u64(at) & HOST, 0);
    }
    patch.write();
    let before = std::fs::read(&image).unwrap();
    let name = image.clone();
    real(move |opener| async move {
        block::chain::open(&*opener, &name, Kind::Qcow2, false).await.unwrap();
    });
    assert!(std::fs::read(&image).unwrap() == before);
    open_to_write(&image).unwrap();
    assert_eq!(Patch::new(&image).u64(72), 0);
    check(&image);
    compare(&folder, &image, &content);
}

#[test]
fn formats_without_checks_and_files_without_sense() {
    let folder = Folder::new();
    let raw = folder.write("raw", &[0; 4096]);
    let name = raw.clone();
    let error =
        real(move |opener| async move { our_check(&*opener, &name, Kind::Raw, None).await }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error = ours(&raw, None).unwrap_err();
    assert!(error.to_string().contains(&raw), "{error}");
}
