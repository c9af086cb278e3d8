//! A process that is killed in the middle of writes and a stream leaves a sound image.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use block::job::JobOptions;
use block::stream::StreamOptions;
use block::{Buf, Kind};

use crate::support::{Folder, MODES, Random, open, qemu_img, real, try_tool};

const CHILD: &str = "MILLRACE_TEST_KILL_CHILD";
const SECTORS: u64 = 8192;

/// Returns the sectors that round `n` writes.
fn place(seed: u64, n: u64) -> std::ops::Range<u64> {
    let mut random = Random::new(seed * 1_000_003 + n);
    let start = random.below(SECTORS);
    start..(start + 1 + random.below(100)).min(SECTORS)
}

/// The process that is killed. Run as a test, it does nothing.
#[test]
fn child() {
    let Ok(text) = std::env::var(CHILD) else { return };
    let words: Vec<_> = text.splitn(3, ' ').collect();
    let (seed, kind, image) =
        (words[0].parse::<u64>().unwrap(), words[1].parse().unwrap(), words[2].to_owned());
    real(MODES[seed as usize % 4], move |opener| async move {
        let disk = open(&opener, &image, kind).await;
        disk.start_stream(StreamOptions::default(), JobOptions::block_stream(disk.name())).await.unwrap();
        let mut out = std::io::stdout();
        for n in 1u64.. {
            let range = place(seed, n);
            let bytes = n.to_le_bytes().repeat(64 * (range.end - range.start) as usize);
            let ticket = disk.enter().await;
            disk.write(&ticket, range.start * 512, Buf::from_bytes(&bytes)).await.unwrap();
            if n % 7 == 0 {
                disk.flush(&ticket).await.unwrap();
                writeln!(out, "flushed {n}").unwrap();
                out.flush().unwrap();
            }
        }
    });
}

#[test]
fn flushed_data_survive_and_nothing_is_corrupt() {
    for seed in 0..12 {
        let folder = Folder::new();
        let base = folder.write("base", &[0xff; SECTORS as usize * 512]);
        let leaf = folder.file("leaf");
        let (kind, layout) = [
            (Kind::Qcow2, "cluster_size=512"),
            (Kind::Qcow2, "cluster_size=64k"),
            (Kind::Qcow2, "cluster_size=16k,extended_l2=on"),
            (Kind::Qcow2, "compat=0.10"),
            (Kind::Qed, "cluster_size=4k,table_size=2"),
            (Kind::Qed, "cluster_size=64k"),
        ][seed as usize / 2];
        qemu_img(&["create", "-q", "-f", kind.name(), "-o", layout, "-F", "raw", "-b", &base, &leaf]);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child", "--nocapture"])
            .env(CHILD, format!("{seed} {kind} {leaf}"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let flushed = lines
            .filter_map(|line| line.unwrap().strip_prefix("flushed ").map(|n| n.parse::<u64>().unwrap()))
            .nth(3 + 5 * (seed as usize % 8))
            .expect("the child ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();

        // The kernel ends the operations of a killed process's ring after the process, and only then
        // gives up its locks.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let check = loop {
            let check = try_tool("qemu-img", &["check", "-f", kind.name(), &leaf]);
            let locked = String::from_utf8_lossy(&check.stderr).contains("lock");
            if !locked || std::time::Instant::now() > deadline {
                break check;
            }
        };
        // 0: clean; 3: leaked clusters, which are allowed; 2: corruption.
        assert!(matches!(check.status.code(), Some(0 | 3)), "seed {seed}: {check:?}");
        let raw = folder.file("raw");
        qemu_img(&["convert", "-f", kind.name(), "-O", "raw", &leaf, &raw]);
        let content = std::fs::read(&raw).unwrap();
        let mut last = vec![u64::MAX; SECTORS as usize];
        for n in 1..=flushed {
            place(seed, n).for_each(|sector| last[sector as usize] = n);
        }
        for (sector, bytes) in content.chunks(512).enumerate() {
            let found = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            assert!(
                bytes.chunks(8).all(|word| word == found.to_le_bytes()),
                "seed {seed}: torn sector {sector}"
            );
            let newer = found > flushed && found != u64::MAX && place(seed, found).contains(&(sector as u64));
            assert!(
                found == last[sector] || newer,
                "seed {seed}: sector {sector} holds {found}, {} was flushed",
                last[sector]
            );
        }
        // The image can be used from there.
        real(MODES[0], move |opener| async move {
            let (disk, _) = crate::support::stream(&opener, &leaf, kind).await;
            assert!(disk.leaf().backing().is_none());
            crate::support::verify(&disk, &content).await;
            disk.close().await.unwrap();
        });
    }
}
