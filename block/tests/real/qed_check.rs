//! QED: `check` and `qemu-img check` agree on damaged images, repaired ones satisfy both; disks grow.

use block::check::{Repair, Report, check};
use block::image::{self, Create};
use block::{Buf, Kind};
use serde_json::Value;

use crate::support::{
    Folder, MODES, Random, compare, exercise, open, qemu_img, real, tool, try_tool, verify,
};

fn ours(image: &str, repair: Option<Repair>) -> Report {
    let image = image.to_owned();
    real(MODES[1], move |opener| async move { check(&*opener, &image, Kind::Qed, repair).await.unwrap() })
}

/// Checks that all numbers are the same, except those that QEMU does not report.
fn agree(image: &str, damage: &str) -> Report {
    let ours = ours(image, None);
    let output = try_tool("qemu-img", &["check", "-f", "qed", "--output=json", image]);
    let theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (what, n) in [
        ("corruptions", ours.corruptions),
        ("leaks", ours.leaks),
        ("total-clusters", ours.total_clusters),
        ("allocated-clusters", ours.allocated_clusters),
        ("fragmented-clusters", ours.fragmented_clusters),
    ] {
        let n_theirs = theirs.get(what).map_or(0, |n| n.as_u64().unwrap());
        assert_eq!(n, n_theirs, "{damage}: {what}\n{ours:#?}\n{theirs:#}");
    }
    ours
}

struct Patch {
    bytes: Vec<u8>,
    l1: usize,
    l2: usize,
    cluster: usize,
}

impl Patch {
    fn new(image: &str) -> Self {
        let mut patch = Patch { bytes: std::fs::read(image).unwrap(), l1: 0, l2: 0, cluster: 0 };
        patch.cluster = patch.word(4) as u32 as usize;
        patch.l1 = patch.word(40) as usize;
        patch.l2 = patch.word(patch.l1) as usize;
        patch
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }

    fn set(&mut self, at: usize, word: usize) {
        self.bytes[at..at + 8].copy_from_slice(&(word as u64).to_le_bytes());
    }
}

type Damage = fn(&mut Patch);

const LAYOUTS: [&str; 4] =
    ["cluster_size=64k", "cluster_size=4k,table_size=2", "cluster_size=4k,table_size=16", "cluster_size=1M"];

#[test]
fn damage_is_told_as_qemu_tells_it_and_repaired() {
    // The names of the damages, true if guest data becomes unreachable, and functions that do them.
    let damages: [(&str, bool, Damage); 13] = [
        ("none", false, |_| ()),
        ("an entry doubled", true, |p| p.set(p.l2, p.word(p.l2 + 8) as usize)),
        ("an entry for the L1 table", true, |p| p.set(p.l2, p.l1)),
        ("an entry for an L2 table", true, |p| p.set(p.l2, p.l2)),
        ("an entry for the second cluster of a table", true, |p| p.set(p.l2, p.l2 + p.cluster)),
        ("an entry that is not aligned", true, |p| p.set(p.l2 + 8, p.l2 + 512)),
        ("an entry behind the end", true, |p| p.set(p.l2 + 8, 1 << 40)),
        ("an L2 table behind the end", false, |p| p.set(p.l1 + 800, 1 << 40)),
        ("an L2 table doubled", false, |p| p.set(p.l1 + 800, p.l2)),
        ("an L2 table that is the L1 table", false, |p| p.set(p.l1 + 808, p.l1)),
        ("an L2 table that is not aligned", false, |p| p.set(p.l1 + 800, 1)),
        ("leaks", false, |p| p.bytes.resize(p.bytes.len() + 3 * p.cluster, 5)),
        ("a part of a cluster", false, |p| p.bytes.resize(p.bytes.len() + 1000, 5)),
    ];
    for layout in LAYOUTS {
        for (damage, loses, patch) in damages {
            let folder = Folder::new();
            let (image, content) = (folder.file("image"), folder.file("content"));
            qemu_img(&["create", "-q", "-f", "qed", "-o", layout, &image, "8M"]);
            let writes = ["-c", "write -P 1 0 600k", "-c", "write -P 2 3M 300k", "-c", "write -z 5M 1M"];
            tool("qemu-io", &[&["-f", "qed"][..], &writes, &[&image]].concat());
            qemu_img(&["convert", "-f", "qed", "-O", "raw", &image, &content]);
            let content = std::fs::read(content).unwrap();
            let mut bytes = Patch::new(&image);
            patch(&mut bytes);
            std::fs::write(&image, &bytes.bytes).unwrap();
            let what = format!("{damage}, {layout}");
            let found = agree(&image, &what);
            let leaks = ours(&image, Some(Repair::Leaks));
            assert_eq!(leaks.corruptions, found.corruptions, "{what}");
            agree(&image, &what);

            let report = ours(&image, Some(Repair::All));
            assert_eq!(report.corruptions, 0, "{what}: {report:#?}");
            let after = agree(&image, &what);
            assert_eq!((after.corruptions, after.leaks), (0, report.leaks), "{what}");
            if !loses {
                println!("{what}");
                compare(&folder, &image, "qed", &content);
            }
            // The image can be written, and stays sound.
            let name = image.clone();
            real(MODES[0], move |opener| async move {
                let disk = open(&opener, &name, Kind::Qed).await;
                let ticket = disk.enter().await;
                for at in [0, 500 << 10, 4 << 20, 7 << 20] {
                    disk.write(&ticket, at, Buf::from_bytes(&[9; 100 << 10])).await.unwrap();
                }
                drop(ticket);
                disk.close().await.unwrap();
            });
            assert_eq!(agree(&image, &what).corruptions, 0, "{what}");
        }
    }
}

#[test]
fn disks_grow_over_backing_files_of_any_length() {
    for (seed, layout) in LAYOUTS.into_iter().enumerate() {
        real(MODES[seed], move |opener| async move {
            let folder = Folder::new();
            let mut random = Random::new(seed as u64);
            let mut model = random.bytes(6 << 20);
            let base = folder.write("base", &model);
            let leaf = folder.file("leaf");
            let first = (1 << 20) + 512 * 5;
            qemu_img(&[
                "create",
                "-q",
                "-f",
                "qed",
                "-o",
                layout,
                "-F",
                "raw",
                "-b",
                &base,
                &leaf,
                &first.to_string(),
            ]);
            model.truncate(first);
            let disk = open(&opener, &leaf, Kind::Qed).await;
            for size in [first + 512, 2 << 20, (5 << 20) + 512 * 7, 9 << 20] {
                exercise(&disk, &mut model, &mut random, 3).await;
                disk.resize(size as u64).await.unwrap();
                model.resize(size, 0);
                verify(&disk, &model).await;
            }
            exercise(&disk, &mut model, &mut random, 3).await;
            disk.close().await.unwrap();
            drop(disk);
            assert_ne!(try_tool("qemu-img", &["check", "-f", "qed", &leaf]).status.code(), Some(2));
            compare(&folder, &leaf, "qed", &model);
        });
    }
}

#[test]
fn what_qemu_shows_of_an_image_that_it_grew_we_show_too() {
    real(MODES[0], |opener| async move {
        let folder = Folder::new();
        let leaf = folder.file("leaf");
        let options = Create { size: Some(1 << 20), cluster_size: Some(4 << 10), ..Create::default() };
        image::create(&*opener, &leaf, Kind::Qed, &options).await.unwrap();
        tool("qemu-io", &["-f", "qed", "-c", "write -P 5 0 1M", &leaf]);
        qemu_img(&["resize", "-q", "-f", "qed", &leaf, "3M"]);
        tool("qemu-io", &["-f", "qed", "-c", "write -P 6 2M 1M", &leaf]);
        let mut model = vec![5; 3 << 20];
        model[1 << 20..2 << 20].fill(0);
        model[2 << 20..].fill(6);
        let disk = open(&opener, &leaf, Kind::Qed).await;
        verify(&disk, &model).await;
        disk.close().await.unwrap();
    });
}
