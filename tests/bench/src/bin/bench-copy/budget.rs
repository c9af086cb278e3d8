//! The effect of a latency budget: a guest reads while its disk streams, without a budget and with one
//! of a millisecond.

use std::time::{Duration, Instant};

use bench::{Spread, Vmm};
use harness::Failure;
use serde_json::json;

use crate::copy::Bench;
use crate::files::Base;
use crate::guest::{Guest, between};

/// `x-max-latency`, in milliseconds.
const BUDGET: u64 = 1;
/// The number of requests that the guest has in flight: enough to be slowed down by a stream.
const DEPTH: usize = 8;
/// The percentage of writes.
const WRITES: u64 = 30;
/// The time in which a stream that was just started adapts to the budget.
const SETTLES: Duration = Duration::from_millis(500);

impl Bench {
    /// Measures the effect of a budget and prints it.
    pub fn budget(&self) -> Result<(), Failure> {
        let size = self.size;
        let base = Base::Raw { piece: 0, percent: 100 }.make(&self.folder, size)?;
        println!(
            "  raw base of {} MiB, qcow2 leaf, O_DIRECT; {DEPTH} requests at a time over NBD",
            size >> 20
        );
        println!("  {:<24}{:>28}{:>28}", "x-max-latency", "p99 us", "MiB/s of the stream");
        let mut kept = None;
        for limit in [None, Some(BUDGET)] {
            let (mut p99, mut rate) = (Vec::new(), Vec::new());
            for seed in 0..u64::from(self.runs) {
                let (mut daemon, leaf) = self.on_new_leaf(Vmm::Ours, &base)?;
                let guest = Guest::start(&mut daemon, WRITES, DEPTH, seed + 1)?;
                let mut arguments = json!({"job-id": "stream", "device": "disk"});
                if let Some(limit) = limit {
                    arguments["x-max-latency"] = limit.into();
                }
                let began = Instant::now();
                daemon.qmp.execute_json("block-stream", arguments)?;
                daemon.qmp.wait_event("BLOCK_JOB_COMPLETED", began + 10 * harness::STEP)?;
                let ended = Instant::now();
                let answered = guest.end()?;
                drop(daemon);
                std::fs::remove_file(leaf)?;
                p99.push(between(&answered, began + SETTLES, ended).percentile(99.0));
                rate.push(size as f64 / 1048576.0 / (ended - began).as_secs_f64());
            }
            let (Some(latency), Some(rate)) = (Spread::of(p99), Spread::of(rate)) else { return Ok(()) };
            let limit = limit.map_or("none".to_owned(), |limit| format!("{limit} ms"));
            println!("  {limit:<24}{latency:>28}{rate:>28}");
            kept = Some(latency);
        }
        std::fs::remove_file(&base.path)?;
        let Some(kept) = kept else { return Ok(()) };
        let mark = if kept.median <= BUDGET as f64 * 1000.0 { "ok" } else { "MISSED" };
        println!("  {mark:<8}{kept} us at p99, at most {}", BUDGET * 1000);
        Ok(())
    }
}
