use super::*;
use crate::spec::PRESETS;

fn some(spec: &Spec, disk: u64, n: usize) -> Vec<Op> {
    Requests::new(spec, disk, 1).unwrap().take(n).collect()
}

#[test]
fn requests_stay_in_the_working_set_and_times_never_go_back() {
    for name in PRESETS {
        let spec = Spec { working_set: Some(10_000_000), ..Spec::preset(name).unwrap() };
        let ops = some(&spec, 1 << 30, 20_000);
        assert!(ops.iter().all(|op| op.offset + op.len <= 10_000_000 && op.offset % 512 == 0), "{name}");
        assert!(ops.windows(2).all(|two| two[0].at <= two[1].at), "{name}");
    }
}

#[test]
fn rate_read_share_flushes_and_trims_are_as_described() {
    let arrival = Arrival::Open { rate: 1000.0, poisson: true };
    let spec = Spec { arrival, read: 0.3, trim: 0.1, flush_every: 10_000_000, burst: 1.5, ..Spec::default() };
    let ops = some(&spec, 1 << 30, 100_000);
    let seconds = ops.last().unwrap().at as f64 / 1e9;
    let count = |kind| ops.iter().filter(|op| op.kind == kind).count() as f64;
    let others = ops.len() as f64 - count(Kind::Flush);
    assert!((others / seconds / 1000.0 - 1.0).abs() < 0.05, "{}", others / seconds);
    assert!((count(Kind::Flush) / seconds / 100.0 - 1.0).abs() < 0.05);
    assert!((count(Kind::Trim) / others - 0.1).abs() < 0.01);
    assert!((count(Kind::Read) / (others - count(Kind::Trim)) - 0.3).abs() < 0.01);
    let flushed = Spec { flush_writes: 4, read: 0.0, ..Spec::default() };
    let ops = some(&flushed, 1 << 20, 100);
    assert!(ops.chunks(5).all(|five| five[4].kind == Kind::Flush && five[3].kind == Kind::Write));
}

#[test]
fn offsets_have_their_shapes() {
    let of = |offsets| {
        let spec = Spec { offsets, ..Spec::default() };
        some(&spec, 1 << 24, 4096).iter().map(|op| op.offset / 4096).collect::<Vec<_>>()
    };
    assert_eq!(of(Offsets::Sequential), (0..4096).collect::<Vec<_>>());
    let strided = of(Offsets::Strided(65536));
    assert_eq!(strided[..3], [0, 16, 32]);
    assert_eq!(strided[256], 1);
    let hot = of(Offsets::Hotspot { requests: 0.8, space: 0.1 });
    let share = hot.iter().filter(|place| **place < 409).count() as f64 / 4096.0;
    assert!((share - 0.8).abs() < 0.03, "{share}");
    let mut zipf = of(Offsets::Zipf(1.1));
    zipf.sort_unstable();
    let mut runs: Vec<usize> = zipf.chunk_by(|a, b| a == b).map(<[u64]>::len).collect();
    runs.sort_unstable();
    assert!(runs[runs.len() - 1] > 300 && runs.len() > 300, "{runs:?}");
    let phases = of(Offsets::Phases(vec![(3, Offsets::Sequential), (2, Offsets::Strided(8192))]));
    assert_eq!(phases[..8], [0, 1, 2, 0, 2, 3, 4, 5]);
}

#[test]
fn bursts_keep_the_mean_rate_and_stay_in_their_half() {
    for (rate, burst, period) in
        [(1000.0, 2.0, 1_000_000_000), (1000.0, 1.9, 1_000_000_000), (10.0, 2.0, 1_000_001)]
    {
        let arrival = Arrival::Open { rate, poisson: true };
        let spec = Spec { arrival, burst, burst_period: period, ..Spec::default() };
        let ops = some(&spec, 1 << 30, 50_000);
        let seen = ops.len() as f64 / (ops.last().unwrap().at as f64 / 1e9);
        assert!((seen / rate - 1.0).abs() < 0.05, "{burst}: {seen}");
        let quiet = ops.iter().filter(|op| op.at % period > period / 2).count() as f64 / ops.len() as f64;
        assert!((quiet - (2.0 - burst) / 2.0).abs() < 0.01, "{burst}: {quiet}");
    }
    // Less than one request a second comes as seldom as it should.
    let arrival = Arrival::Open { rate: 0.01, poisson: true };
    let ops = some(&Spec { arrival, ..Spec::default() }, 1 << 30, 10_000);
    let seen = ops.len() as f64 / (ops.last().unwrap().at as f64 / 1e9);
    assert!((seen / 0.01 - 1.0).abs() < 0.05, "{seen}");
}
