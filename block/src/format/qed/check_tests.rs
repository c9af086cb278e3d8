use executor::Executor;

use super::super::header;
use super::super::tests::{CLUSTER, DATA, L1, L2, new_image, open, patched, read, simulate, word, write};
use crate::image::check::{Repair, check};
use crate::sim::{SimDir, SimFile};
use crate::{ErrorKind, Kind};

/// The advice at the end of an error.
const REPAIR: &str = "repair it with 'millrace image check -f qed --repair all'";

#[test]
fn an_unclean_image_is_checked_and_trimmed() {
    simulate(|files| async move {
        let clean = new_image(&files).await;
        // A cluster that leaked in the middle, and some at the end.
        let leaked = DATA + CLUSTER;
        let leaky = [(16, header::NEED_CHECK), (L2 + 40, (leaked + CLUSTER) as u64), (0x9000, 1)];
        let file = patched(&files, &clean, &leaky);
        let before = file.content();
        let node = open(&files, false).await.unwrap();
        assert_eq!(read(&node, 2 * CLUSTER, 1).await.unwrap(), [7]);
        drop(node);
        assert_eq!(file.content(), before, "opened for reading, nothing is repaired");

        let node = open(&files, true).await.unwrap();
        assert_eq!((word(&file, 16), file.content().len() as u64), (0, (leaked + 2 * CLUSTER) as u64));
        write(&node, 0, CLUSTER, 9).await.unwrap();
        node.flush().await.unwrap();
        assert_eq!(word(&file, L2), leaked as u64, "what was leaked is used again");
        assert_eq!(word(&file, 16), header::NEED_CHECK);
        node.close().await.unwrap();
        assert_eq!((word(&file, 16), file.content().len() as u64), (0, (leaked + 2 * CLUSTER) as u64));
        assert_eq!(read(&node, 2 * CLUSTER, 1).await.unwrap(), [7]);
    });
}

#[test]
fn a_contradiction_is_refused_and_left_alone() {
    simulate(|files| async move {
        let clean = new_image(&files).await;
        let cases = [
            ((L2, DATA as u64), "in use already"),
            ((L2, L2 as u64), "in use already"),
            ((L2, L1 as u64), "in use already"),
            ((L2 + 4088, 2), "not aligned"),
            ((L2, DATA as u64 + 512), "not aligned"),
            ((L1, DATA as u64 + 1), "not aligned"),
            ((L1 + 8, L2 as u64), "in use already"),
        ];
        for (change, text) in cases {
            // Entries that a power cut explains do not hide those that it does not.
            let changes = [(16, header::NEED_CHECK), (L2 + 80, 1 << 40), change];
            let file = patched(&files, &clean, &changes);
            let before = file.content();
            let error = open(&files, true).await.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().starts_with("image: ") && error.to_string().contains(text), "{error}");
            assert!(error.to_string().contains(REPAIR), "{error}");
            assert_eq!(file.content(), before);
            // For reading, only wrong entries are refused, when their offset is read.
            let node = open(&files, false).await.unwrap();
            let _ = read(&node, 0, 1 << 20).await;
        }
    });
}

#[test]
fn what_a_power_cut_took_is_absent() {
    simulate(|files| async move {
        let clean = new_image(&files).await;
        let past = (DATA + CLUSTER) as u64;
        for lost in [(L2, past), (L2, !4095), (L1 + 8, past), (L1 + 4088, 1 << 40)] {
            let file = patched(&files, &clean, &[(16, header::NEED_CHECK), lost]);
            let node = open(&files, true).await.unwrap();
            assert_eq!((word(&file, lost.0), word(&file, 16)), (0, 0));
            assert_eq!(file.content()[L1..], clean.content()[L1..]);
            assert_eq!(read(&node, 2 * CLUSTER, 1).await.unwrap(), [7]);
        }
    });
}

/// Returns the clusters before the first data cluster, which hold metadata: no write of a guest may change
/// them.
fn metadata(file: &SimFile) -> Vec<u8> {
    let mut bytes = file.content()[..DATA].to_vec();
    bytes[16] = 0;
    bytes
}

#[test]
fn data_that_points_at_metadata_is_refused_and_repaired() {
    simulate(|files| async move {
        let clean = new_image(&files).await;
        for place in [L2, L1, DATA + 512, 1 << 40] {
            let file = patched(&files, &clean, &[(L2, place as u64)]);
            let before = metadata(&file);
            let node = open(&files, true).await.unwrap();
            for error in [
                write(&node, 0, CLUSTER, 0xee).await.unwrap_err(),
                write(&node, 512, 512, 0xee).await.unwrap_err(),
                node.discard(0, CLUSTER as u64).await.err().unwrap_or_else(|| panic!("discarded {place:#x}")),
            ] {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                assert!(error.to_string().starts_with("image: ") && error.to_string().contains(REPAIR));
            }
            write(&node, 8 * CLUSTER, CLUSTER, 9).await.unwrap();
            node.close().await.unwrap();
            drop(node);
            let mut after = metadata(&file);
            after[L2 + 64..L2 + 72].copy_from_slice(&before[L2 + 64..L2 + 72]);
            assert!(after == before, "{place:#x}");

            let found = check(&*files, "image", Kind::Qed, None).await.unwrap();
            assert_eq!((found.corruptions, found.leaks), (1, 0), "{found:?}");
            let repaired = check(&*files, "image", Kind::Qed, Some(Repair::All)).await.unwrap();
            assert_eq!((repaired.corruptions, repaired.corruptions_fixed), (0, 1), "{repaired:?}");
            let node = open(&files, true).await.unwrap();
            write(&node, 512, 512, 0xee).await.unwrap();
            assert_eq!(read(&node, 2 * CLUSTER, CLUSTER).await.unwrap(), [7; CLUSTER]);
            assert_eq!(read(&node, 8 * CLUSTER, CLUSTER).await.unwrap(), [9; CLUSTER]);
        }
    });
}

#[test]
fn a_cluster_of_two_owners_is_refused_and_repaired() {
    simulate(|files| async move {
        let clean = new_image(&files).await;
        let file = patched(&files, &clean, &[(L2, DATA as u64)]);
        let before = file.content();
        let error = open(&files, true).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let text = format!("image: two entries refer to the cluster at {DATA:#x}");
        assert!(error.to_string().starts_with(&text) && error.to_string().contains(REPAIR), "{error}");
        assert_eq!(file.content(), before);
        let node = open(&files, false).await.unwrap();
        assert_eq!(read(&node, 0, CLUSTER).await.unwrap(), [7; CLUSTER]);
        drop(node);
        check(&*files, "image", Kind::Qed, Some(Repair::All)).await.unwrap();
        let node = open(&files, true).await.unwrap();
        write(&node, 0, CLUSTER, 1).await.unwrap();
        assert_eq!(read(&node, 2 * CLUSTER, CLUSTER).await.unwrap(), [7; CLUSTER]);
    });
}

#[test]
fn tables_that_cannot_be_are_refused_and_repaired() {
    simulate(|files| async move {
        let clean = new_image(&files).await;
        for place in [L2, L1, 512, 1, 1 << 40] {
            let file = patched(&files, &clean, &[(L1 + 8, place as u64)]);
            let before = file.content();
            let error = open(&files, true).await.err().unwrap();
            assert!(error.to_string().starts_with("image: ") && error.to_string().contains(REPAIR));
            assert_eq!(file.content(), before);
            let found = check(&*files, "image", Kind::Qed, None).await.unwrap();
            assert_eq!((found.corruptions, found.problems.len()), (1, 1), "{found:?}");
            assert_eq!(file.content(), before);
            let repaired = check(&*files, "image", Kind::Qed, Some(Repair::All)).await.unwrap();
            assert_eq!((repaired.corruptions, repaired.corruptions_fixed), (0, 1), "{repaired:?}");
            let node = open(&files, true).await.unwrap();
            write(&node, 512 * CLUSTER - 512, 1024, 6).await.unwrap();
            assert_eq!(read(&node, 2 * CLUSTER, CLUSTER).await.unwrap(), [7; CLUSTER]);
        }
    });
}

#[test]
fn two_entries_for_one_cluster_get_one_each() {
    simulate(|files| async move {
        let clean = new_image(&files).await;
        let file = patched(&files, &clean, &[(L2 + 40, DATA as u64), (32, 7)]);
        let leaks = check(&*files, "image", Kind::Qed, Some(Repair::Leaks)).await.unwrap();
        assert_eq!((leaks.corruptions, leaks.corruptions_fixed), (1, 0));
        assert_eq!(word(&file, 32), 0, "whoever follows the metadata has to look again");
        let all = check(&*files, "image", Kind::Qed, Some(Repair::All)).await.unwrap();
        assert_eq!((all.corruptions, all.corruptions_fixed, all.leaks), (0, 1, 0));
        let node = open(&files, true).await.unwrap();
        write(&node, 5 * CLUSTER, 512, 9).await.unwrap();
        assert_eq!(read(&node, 2 * CLUSTER, CLUSTER).await.unwrap(), [7; CLUSTER]);
        assert_eq!(read(&node, 5 * CLUSTER + 511, 2).await.unwrap(), [9, 7]);
    });
}

/// A small file that refers to one cluster very often is not blown up.
#[test]
fn copies_of_a_repair_are_bounded() {
    simulate(|files| async move {
        let clean = new_image(&files).await;
        let words: Vec<_> = (0..256).map(|n| (L2 + n * 8, DATA as u64)).collect();
        let file = patched(&files, &clean, &words);
        let before = file.content().len() as u64;
        let report = check(&*files, "image", Kind::Qed, Some(Repair::All)).await.unwrap();
        assert!(report.corruptions > 0 && report.corruptions_fixed > 0, "{report:?}");
        assert!(file.content().len() as u64 <= 2 * before);
    });
}

#[test]
fn repairs_that_are_cut_off_can_be_repeated() {
    for seed in 0..200 {
        Executor::simulated(seed).block_on(async {
            let files = SimDir::new();
            let clean = new_image(&files).await;
            let words = [(L2, L2 as u64), (L2 + 40, DATA as u64), (L2 + 48, 1 << 40), (L1 + 16, L2 as u64)];
            patched(&files, &clean, &words);
            files.cut_after(1 + executor::random() % 12);
            let _ = check(&*files, "image", Kind::Qed, Some(Repair::All)).await;
            let after = files.after_power_cut();
            let report = check(&*after, "image", Kind::Qed, Some(Repair::All)).await.unwrap();
            assert_eq!(report.corruptions, 0, "{report:?}");
            let node = open(&after, true).await.unwrap();
            assert_eq!(read(&node, 2 * CLUSTER, CLUSTER).await.unwrap(), [7; CLUSTER]);
            assert_eq!(read(&node, 5 * CLUSTER, CLUSTER).await.unwrap(), [7; CLUSTER]);
        });
    }
}

#[test]
fn leaks_at_the_end_are_cut_off() {
    simulate(|files| async move {
        let clean = new_image(&files).await;
        let mut bytes = clean.content();
        // One in the middle, and a part of one behind the last whole one.
        bytes[L2 + 40..L2 + 48].copy_from_slice(&((DATA + 2 * CLUSTER) as u64).to_le_bytes());
        bytes.resize(DATA + 6 * CLUSTER + 100, 5);
        let file = files.add("image", bytes);
        let found = check(&*files, "image", Kind::Qed, None).await.unwrap();
        assert_eq!((found.leaks, found.corruptions), (4, 0));
        let report = check(&*files, "image", Kind::Qed, Some(Repair::Leaks)).await.unwrap();
        assert_eq!((report.leaks, report.leaks_fixed), (1, 3));
        assert_eq!(file.content().len() as u64, (DATA + 3 * CLUSTER) as u64);
    });
}
