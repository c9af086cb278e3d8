//! Measures the cost of recording each request: the time on the disk's thread, per completion, and the memory
//! of a disk's records when they are full.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bench::Spread;
use block::flight::{Flight, OPS};
use block::stats::Ended;

/// Completions of a round.
const COMPLETIONS: u32 = 2_000_000;
const ROUNDS: usize = 20;

/// Runs a round with completions every 3 us, of all kinds, and returns the time of each in ns.
fn round(work: impl Fn(Duration, &Ended)) -> f64 {
    let begun = Instant::now();
    for n in 0..COMPLETIONS {
        let mixed = n.wrapping_mul(2_654_435_761);
        let request = Ended {
            op: OPS[if n % 64 == 0 { 2 } else { n as usize & 1 }],
            offset: u64::from(mixed) << 9,
            len: 4096,
            failed: false,
            latency: Duration::from_nanos(20_000 + u64::from(mixed >> 12)),
        };
        work(Duration::from_micros(3) * n, black_box(&request));
    }
    begun.elapsed().as_nanos() as f64 / f64::from(COMPLETIONS)
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4
}

fn main() {
    let before = resident();
    let flight = Flight::default();
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        without.push(round(|now, request| _ = black_box((now, request))));
        // Each round's times begin anew, so each has a record of its own; the first pages are part of the
        // cost.
        let flight = Flight::default();
        with.push(round(|now, request| {
            flight.begins();
            flight.ended(now, request);
        }));
    }
    let cost = Spread::of(with.iter().zip(&without).map(|(with, without)| with - without));
    // Eleven minutes of one disk.
    for n in 0..2_000_000 {
        flight.ended(
            Duration::from_micros(330) * n,
            &Ended {
                op: OPS[n as usize % 4],
                offset: 0,
                len: 512,
                failed: false,
                latency: Duration::from_micros(100),
            },
        );
    }
    match cost {
        Some(cost) => println!("a completion: {cost} ns more than an empty loop (limit: 150 ns)"),
        None => println!("no rounds"),
    }
    println!(
        "a disk's records: {} KiB more are resident (limit: 2048 KiB)",
        resident().saturating_sub(before)
    );
}
