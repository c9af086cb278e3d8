use executor::Executor;

use super::*;
use crate::sim::{Faults, SimDir};
use crate::{Kind, chain};

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn lines_of_digests() {
    let digest = hex(b"");
    let text = format!("# two\n0 512 {digest}\n\n512 1024 {}\n", digest.to_uppercase());
    let parsed = parse("d", &text, 2048).unwrap();
    assert_eq!(parsed.iter().map(|expected| expected.range.clone()).collect::<Vec<_>>(), [0..512, 512..1536]);
    assert_eq!(parsed[0].digest, parsed[1].digest);
    for wrong in ["0 512", "0 0 DIGEST", "x 512 DIGEST", "0 512 DIGEST more", "0 512 abc", "0 512 é"] {
        let error = parse("d", &format!("#\n{}\n", wrong.replace("DIGEST", &digest)), 2048).unwrap_err();
        assert_eq!(error.to_string(), "d: line 2 is not 'OFFSET LENGTH SHA256'", "{wrong}");
    }
    let error = parse("d", &format!("{} 512 {digest}", u64::MAX), 2048).unwrap_err();
    assert!(error.to_string().contains("is not"), "{error}");
    let error = parse("d", &format!("2047 2 {digest}"), 2048).unwrap_err();
    assert_eq!(error.to_string(), "d: line 1 lies outside the disk");
}

#[test]
fn the_rest_of_a_disk() {
    let at = |range: Range<u64>| Expected { range, digest: [0; 32] };
    assert_eq!(uncovered(&[], 10), vec![0..10]);
    assert_eq!(uncovered(&[at(4..6), at(0..5), at(8..10)], 10), vec![6..8]);
    assert_eq!(uncovered(&[at(0..10)], 10), Vec::<Range<u64>>::new());
}

#[test]
fn a_verification_finds_what_differs_and_what_cannot_be_read() {
    Executor::simulated(0).block_on(async {
        let files = SimDir::new();
        let content: Vec<u8> = (0..3 << 20).map(|n: u32| (n / 4096) as u8).collect();
        let file = files.add("disk", content.clone());
        let line = |range: Range<usize>| {
            format!("{} {} {}\n", range.start, range.end - range.start, hex(&content[range.clone()]))
        };
        let wrong = format!("8192 4096 {}\n", hex(b"other"));
        let lines = [line(0..4096), wrong, line(1 << 20..2 << 20), line(2 << 20..(2 << 20) + 4096)].concat();
        files.add("digests", lines.into_bytes());
        file.set_faults(Faults { bad: Some((1 << 20, (1 << 20) + 5000)), ..Faults::default() });
        let leaf = chain::open(&*files, "disk", Kind::Raw, true).await.unwrap();
        let disk = Disk::new("virtio0", leaf, false, files, |_| {});
        let options = JobOptions { auto_dismiss: false, ..JobOptions::new("v") };
        disk.start_verify(Some("digests"), options).await.unwrap();
        let job = disk.job("v").unwrap();
        job.ended().await;
        let info = job.info();
        assert_eq!(info.error, None);
        assert_eq!((info.offset, info.len), (3 << 20, 3 << 20));
        let unreadable = 1 << 20..(1 << 20) + 8192;
        assert_eq!(
            info.result,
            Some(JobResult::Verify(Verified {
                bytes: (3 << 20) - 8192,
                unreadable: Vec::from([unreadable]),
                differing: Vec::from_iter(std::iter::once(8192..12288)),
            }))
        );
        let error = disk.start_verify(Some("gone"), JobOptions::new("w")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        // The claim was given back.
        drop(disk.claim_whole("a switch").unwrap());
    });
}
