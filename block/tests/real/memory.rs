//! Memory of a process whose guest makes allocating writes, each of which fills a whole cluster.

use block::image::{self, Create};
use block::io::Aio;
use block::{Buf, Kind};

use crate::support::{Folder, Mode, open, real, tool};

const CHILD: &str = "MILLRACE_TEST_MEMORY_CHILD";
const CLUSTER: u64 = 16 << 20;
const WRITES: u64 = 24;

/// The process that is measured. Run as a test, it does nothing.
#[test]
fn child() {
    let Ok(name) = std::env::var(CHILD) else { return };
    real(Mode { aio: Aio::Threads, direct: true }, move |opener| async move {
        let options = Create { size: Some(1 << 30), cluster_size: Some(CLUSTER), ..Create::default() };
        image::create(&*opener, &name, Kind::Qed, &options).await.unwrap();
        let disk = open(&opener, &name, Kind::Qed).await;
        let writes = (0..WRITES).map(|n| {
            let disk = disk.clone();
            async move {
                let ticket = disk.enter().await;
                disk.write(&ticket, n * CLUSTER + 4096, Buf::from_bytes(&[n as u8; 4096])).await.unwrap();
            }
        });
        futures_util::future::join_all(writes).await;
    });
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    println!("peak {}", peak.trim());
}

#[test]
fn allocating_writes_hold_bounded_memory() {
    let folder = Folder::new();
    let test = std::env::current_exe().unwrap();
    let name = format!("{CHILD}={}", folder.file("image"));
    let said = tool("env", &[&name, test.to_str().unwrap(), "--exact", "memory::child", "--nocapture"]);
    let peak = said.lines().find_map(|line| line.split_once("peak ")).expect("the child's peak").1;
    let kib: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    // One cluster of each write would be 384 MiB.
    assert!(kib < 160 << 10, "{WRITES} writes of 4 KiB at once: {} MiB resident", kib >> 10);
}
