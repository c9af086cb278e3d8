use super::*;
use crate::Experiment;

/// A disk of 64 MiB, and a guest that reads and writes a part of it.
fn experiment(strategies: &str, more: &str) -> Experiment {
    let text = format!(
        "name = 'small'\n[disk]\nsize = '64M'\nallocated = 0.75\n[target]\ndevice = 'sata-ssd'\n[link]\nrate = '200Mbit'\n\
         [workload]\npreset = 'oltp'\nrate = 200\nread = 0.5\nworking-set = '16M'\n[strategies]\ndisk = [{strategies}]\n\
         [limits]\ndeadline = '10min'\n[runs]\nseeds = 2\ntier = 'event'\n{more}"
    );
    Experiment::parse("small.toml", &text).unwrap()
}

fn outcome(name: &str, more: &str, seed: u64) -> Outcome {
    let experiment = experiment(&format!("'{name}'"), more);
    assert_eq!(check(&experiment), Ok(()));
    run(&experiment.points[0].setup, &experiment.strategies[0], seed).0
}

/// The presets that the tier runs, with values.
fn names() -> Vec<&'static str> {
    let all = presets::DISK.iter().map(|preset| preset.name).filter(|name| how(name).is_ok());
    all.map(|name| match name.split('(').next() {
        Some("hybrid") => "hybrid(0.5)",
        Some("mirror-behind") => "mirror-behind(1M)",
        _ => name,
    })
    .collect()
}

#[test]
fn every_strategy_brings_every_block() {
    let data = 48 << 20;
    assert!(names().len() >= 14, "{:?}", names());
    for name in names() {
        let record = outcome(name, "", 1).record;
        assert_eq!((record.wrong_blocks, record.converged), (0, true), "{name}: {record:?}");
        assert!(
            record.requests > 20 && record.p50_ms > 0.0 && record.idle_iops > 100.0,
            "{name}: {record:?}"
        );
        // Everything crossed the link, unless the guest wrote it anew at the target.
        assert!(record.sent_bytes as f64 > 0.7 * data as f64, "{name}: {record:?}");
        assert!(record.source_read_bytes as f64 > 0.7 * data as f64, "{name}: {record:?}");
        assert!(record.total_s > 0.7 * data as f64 / 25e6, "{name}: {record:?}");
        assert_eq!(record.tier, "event");
        // A model waits for its copies in flight, a mebibyte at 25 MB/s.
        if name.starts_with("postcopy") || name.starts_with("hybrid") {
            assert!(record.faults > 0 && record.stop_ms < 100.0, "{name}: {record:?}");
        }
        if name == "stop-and-copy" {
            assert!(record.stop_ms > 1900.0 && record.blackout_ms > 1900.0, "{name}: {record:?}");
        }
    }
}

#[test]
fn a_seed_gives_the_same_run_again_and_another_seed_another_one() {
    for name in ["mirror-background", "postcopy-hot", "hybrid(0.5)"] {
        let first = outcome(name, "", 3);
        assert_eq!(format!("{first:?}"), format!("{:?}", outcome(name, "", 3)), "{name}");
        assert_ne!(first.record.requests, outcome(name, "", 4).record.requests, "{name}");
    }
}

#[test]
fn what_only_the_fluid_tier_has_is_refused_by_name() {
    for (name, reason) in [
        ("compose", "deltas and overlays exist only as a fluid model; it runs"),
        ("snapshot-delta", "deltas"),
        ("mirror-behind(2G)", "windows of more than 1 GiB"),
        ("mirror-throttle", "a throttle"),
    ] {
        let error = check(&experiment(&format!("'mirror-io', '{name}'"), "")).unwrap_err();
        assert!(error.contains(name) && error.contains(reason), "{error}");
    }
    let with = |section: &str| {
        let text = format!("name = 'x'\n{section}\n[runs]\ntier = 'event'\n");
        check(&Experiment::parse("x.toml", &text).unwrap()).unwrap_err()
    };
    let ram = with("[ram]\nsize = '1G'\n[strategies]\nram = ['precopy']");
    assert!(ram.contains("does not run precopy"), "{ram}");
    let mirror = "[strategies]\ndisk = ['mirror-io']\n[disk]\nsize = '1G'";
    assert!(with(&format!("{mirror}\ngranule = '4K'")).contains("disk.granule"));
    assert!(with("[strategies]\ndisk = ['mirror-io']\n[disk]\nsize = '8T'").contains("at most 4T"));
    assert!(with(&format!("{mirror}\n[workload]\nrequest-size = '512'")).contains("request-size"));
}

#[test]
fn a_cut_link_costs_its_time_and_no_block() {
    for name in ["mirror-io", "postcopy-seq", "three-phase"] {
        let plain = outcome(name, "", 5).record;
        let cut = outcome(name, "[faults]\nlink-cut = ['40% for 3s']", 5).record;
        assert_eq!((cut.wrong_blocks, cut.converged), (0, true), "{name}: {cut:?}");
        assert!(cut.total_s > plain.total_s + 2.5, "{name}: {} after {}", cut.total_s, plain.total_s);
    }
}

#[test]
fn a_death_ends_the_run_and_a_deadline_makes_it_late() {
    let dead = outcome("mirror-io", "[faults]\ntarget-death = ['50%']", 1).record;
    assert_eq!((dead.end, dead.converged), (End::Failed, false));
    let text = experiment("'mirror-io'", "").text.replace("10min", "1s");
    let late = Experiment::parse("late.toml", &text).unwrap();
    let record = run(&late.points[0].setup, &late.strategies[0], 1).0.record;
    assert_eq!((record.end, record.total_s), (End::Late, 1.0));
}

/// Or else a check over a slow link would take hours in which the guest's requests pile up.
#[test]
fn the_check_at_the_end_takes_no_virtual_time() {
    let text = experiment("'mirror-io'", "").text.replace("200Mbit", "20Mbit");
    let experiment = Experiment::parse("slow.toml", &text).unwrap();
    let (setup, strategy) = (experiment.points[0].setup.clone(), experiment.strategies[0].clone());
    let (total, end) = Executor::simulated(1).block_on(async move {
        let (outcome, _) = migrate(&setup, &strategy, 1, Lies::default()).await;
        (outcome.record.total_s, executor::now().as_secs_f64())
    });
    // 64 MiB over 20 Mbit/s would take 27 s.
    let around = end - total;
    assert!(around < WARM_UP.0.as_secs_f64() + 1.0, "{around} s besides the migration");
}

/// The check of each run would find a copy that went wrong without any error.
#[test]
fn a_device_that_lies_is_found_out() {
    for (name, lies) in [
        ("mirror-background", Lies { misdirected: 20, ..Lies::default() }),
        ("dbt", Lies { misdirected: 20, ..Lies::default() }),
        ("three-phase", Lies { rot: 50, ..Lies::default() }),
    ] {
        let experiment = experiment(&format!("'{name}'"), "");
        let (setup, strategy) = (experiment.points[0].setup.clone(), experiment.strategies[0].clone());
        let (outcome, _) =
            Executor::simulated(1).block_on(async move { migrate(&setup, &strategy, 1, lies).await });
        assert!(outcome.record.wrong_blocks > 0, "{name}: {:?}", outcome.record);
    }
}

#[test]
fn a_closed_guest_has_its_depth_in_flight_and_its_latency() {
    let text = experiment("'mirror-io'", "")
        .text
        .replace("preset = 'oltp'\nrate = 200\n", "depth = 4\nrequest-size = '4K'\n");
    let closed = Experiment::parse("closed.toml", &text).unwrap();
    let record = run(&closed.points[0].setup, &closed.strategies[0], 1).0.record;
    assert_eq!((record.wrong_blocks, record.converged), (0, true), "{record:?}");
    // Reads take 80 us and writes 25 of an idle NVMe device, which four clients do not fill.
    assert!((50_000.0..100_000.0).contains(&record.idle_iops), "{record:?}");
}
