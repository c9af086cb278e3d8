use super::*;
use crate::Experiment;
use crate::record::RunRecord;

const SMALL: &str = r#"name = "small"
[disk]
size = "16G"
[ram]
size = "4G"
dirty = "50M/s"
working-set = "1G"
[workload]
preset = "oltp"
rate = 1000
[strategies]
disk = [
    "stop-and-copy", "postcopy-seq", "postcopy-hot", "postcopy-trace", "snapshot-delta", "dbt", "dbt-hot-avoid",
    "mirror-background", "mirror-io", "mirror-all", "mirror-behind(1M)", "mirror-cold", "mirror-throttle", "adaptive",
    "three-phase", "hybrid(0.5)", "compose",
]
ram = ["stop", "precopy", "precopy-ramp", "precopy-localmin", "auto-converge", "postcopy", "hybrid"]
"#;

fn runs(text: &str) -> Vec<RunRecord> {
    let experiment = Experiment::parse("test", text).unwrap();
    let run = |strategy| crate::run_one(&experiment, 0, strategy, 1).record;
    experiment.strategies.iter().map(run).collect()
}

#[test]
fn every_pair_of_presets_arrives_and_its_figures_make_sense() {
    for run in runs(SMALL) {
        let name = &run.strategy;
        assert!(run.converged, "{run:?}");
        assert!(run.amplification > 0.99 && run.amplification < 3.0, "{name} {}", run.amplification);
        assert!(run.independence_s <= run.total_s + 1e-6 && run.independence_s > 0.0, "{name}");
        assert!(run.blackout_ms <= run.stop_ms + 200.0, "{name} {} {}", run.blackout_ms, run.stop_ms);
        assert!(run.p50_ms <= run.p99_ms && run.p99_ms <= run.max_ms * 1.04, "{name}");
        let source =
            run.source_nothing_s + run.source_restarts_s + run.source_pauses_s + run.source_reboots_s;
        let sum = source + run.source_loses_s;
        assert!((sum - run.total_s).abs() < 0.02 * run.total_s + 1.0, "{name} {sum} {}", run.total_s);
        let values = serde_json::to_value(&run).unwrap();
        assert!(values.as_object().unwrap().values().all(|value| !value.is_null()), "{run:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let experiment = Experiment::parse("test", SMALL).unwrap();
    let run = |seed| crate::run_one(&experiment, 0, &experiment.strategies[20], seed);
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).record.total_s, run(2).record.total_s);
}

#[test]
fn a_link_that_is_cut_makes_it_later_and_a_death_ends_it() {
    let base = SMALL.replace("ram = [", "ram = [] #");
    let total = |faults: &str, index: usize| {
        let experiment = Experiment::parse("test", &format!("{base}{faults}")).unwrap();
        crate::run_one(&experiment, 0, &experiment.strategies[index], 1).record
    };
    let (plain, cut) = (total("", 8), total("[faults]\nlink-cut = [\"50% for 10s\"]\n", 8));
    assert!((cut.total_s - plain.total_s - 10.0).abs() < 1.0, "{} {}", cut.total_s, plain.total_s);
    assert!(cut.converged && cut.blackout_ms < 100.0);
    let postcopy = total("[faults]\nlink-cut = [\"50% for 10s\"]\n", 1);
    assert!(postcopy.blackout_ms > 9000.0, "{}", postcopy.blackout_ms);
    let dead = total("[faults]\ntarget-death = [\"50%\"]\n", 8);
    assert_eq!(dead.end, End::Failed);
}

#[test]
fn a_guest_that_writes_faster_than_the_link_stops_background_copies_and_not_active_ones() {
    let text = SMALL
        .replace("ram = [\"stop\", \"precopy\", \"precopy-ramp\", \"precopy-localmin\", \"auto-converge\", \"postcopy\", \"hybrid\"]", "ram = []")
        .replace("rate = 1000", "rate = 20000\nread = 0.0\noffsets = \"uniform\"")
        + "[link]\nrate = \"1Gbit\"\n[limits]\ndeadline = \"1h\"\n";
    for run in runs(&text) {
        let stuck = matches!(run.strategy.as_str(), "dbt" | "dbt-hot-avoid" | "mirror-background");
        assert_eq!(run.converged, !stuck, "{run:?}");
    }
}

#[test]
fn strategies_have_the_same_guest_only_in_pairs() {
    let idle = |pair: &str| {
        let text = format!("{SMALL}[runs]\npair = {pair}\n");
        let experiment = Experiment::parse("test", &text).unwrap();
        [0, 1].map(|index| crate::run_one(&experiment, 0, &experiment.strategies[index], 3).record)
    };
    let [one, other] = idle("true");
    assert_eq!(one.idle_iops, other.idle_iops);
    let [one, other] = idle("false");
    assert_ne!(one.idle_iops, other.idle_iops);
    assert_eq!((one.seed, other.seed), (3, 3));
}

#[test]
fn the_guest_waits_for_its_flushes() {
    let with = |fsync: &str| {
        let flush = format!("rate = 1000\n{fsync}\n[source]\nflush = \"50ms\"\n");
        let experiment = Experiment::parse("test", &SMALL.replace("rate = 1000\n", &flush)).unwrap();
        crate::run_one(&experiment, 0, &experiment.strategies[0], 1).record.idle_p99_ms
    };
    assert!(with("fsync = \"10ms\"") > 48.0 && with("fsync-writes = 4") > 48.0);
    assert!(with("fsync = \"10s\"") < 5.0 && with("fsync-writes = 0") < 5.0);
}

#[test]
fn extreme_setups_end_and_give_figures_that_are_numbers() {
    let mut random = workload::Random::new(7);
    let mut pick = |list: &[&str]| list[random.below(list.len() as u64) as usize].to_owned();
    let disks: Vec<String> =
        presets::DISK.map(|p| p.name.replace("(W)", "(4K)").replace("(P)", "(0.9)")).to_vec();
    let disks: Vec<&str> = disks.iter().map(String::as_str).collect();
    let rams: Vec<&str> = presets::RAM.iter().map(|preset| preset.name).collect();
    for _ in 0..60 {
        let text = format!(
            "name = \"x\"\n[disk]\nsize = \"{}\"\ngranule = \"{}\"\nallocated = {}\n\
             [ram]\nsize = \"{}\"\ndirty = \"{}\"\nvariation = {}\nround-cost = \"{}\"\nswitch-cost = \"{}\"\n\
             [source]\ndevice = \"{}\"\n[target]\ndevice = \"{}\"\n\
             [link]\nrate = \"{}\"\ndelay = \"{}\"\n[workload]\npreset = \"{}\"\n{}\n\
             [faults]\nlink-cut = [\"{}\"]\n[strategies]\ndisk = [\"{}\"]\nram = [\"{}\"]\n\
             [limits]\ndowntime = \"{}\"\ndeadline = \"{}\"\n",
            pick(&["1M", "1G", "900T"]),
            pick(&["512", "64K", "1M"]),
            pick(&["0.0", "1.0"]),
            pick(&["4K", "1G", "100T"]),
            pick(&["1/s", "100M/s", "1T/s"]),
            pick(&["0.0", "1.0"]),
            pick(&["0s", "1s"]),
            pick(&["0s", "5s"]),
            pick(&["nvme", "hdd-7200"]),
            pick(&["network", "hdd-7200"]),
            pick(&["1bit", "1Gbit", "9T/s"]),
            pick(&["0s", "10s"]),
            pick(&["random", "oltp", "seqlog", "db", "boot", "idle"]),
            pick(&["", "read = 0.0", "read = 1.0", "rate = 0.001", "rate = 1000000000", "depth = 65536"]),
            pick(&["0% for 0s", "50% for 1h", "0s for 1s"]),
            pick(&disks),
            pick(&rams),
            pick(&["0s", "1ns", "1h"]),
            pick(&["1ms", "1s", "30s"]),
        );
        let experiment = Experiment::parse("x", &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let outcome = crate::run_one(&experiment, 0, &experiment.strategies[0], 1);
        let run = &outcome.record;
        // JSON has no number for infinity or NaN.
        let values = serde_json::to_value(run).unwrap();
        for (key, value) in values.as_object().unwrap() {
            let sound = key.ends_with("percent") || !value.is_number() || value.as_f64().unwrap() >= 0.0;
            assert!(!value.is_null() && sound, "{key}: {value}\n{text}");
        }
        assert!(run.total_s <= experiment.points[0].setup.limits.deadline + 0.2, "{run:?}");
        assert!(
            outcome.series.len() < 1000 && outcome.series.iter().all(|line| line.p99_ms.is_finite()),
            "{text}"
        );
    }
}

/// Runs the first strategy of an experiment with its first seed.
fn outcome(text: &str) -> Outcome {
    let experiment = Experiment::parse("test", text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    crate::run_one(&experiment, 0, &experiment.strategies[0], 1)
}

#[test]
fn a_guest_that_nothing_disturbs_misses_hardly_any_requests() {
    for preset in ["db", "oltp", "random"] {
        let text = format!(
            "name = \"x\"\n[disk]\nsize = \"100G\"\n[link]\nrate = \"1Gbit\"\n[workload]\npreset = \"{preset}\"\n\
             working-set = \"1G\"\n[strategies]\ndisk = [\"mirror-background\"]\n[limits]\ndeadline = \"10min\"\n"
        );
        let run = outcome(&text).record;
        let share = run.dip_area_ops / run.requests as f64;
        assert!(run.requests > 100_000 && share < 0.02, "{preset}: {share} of {}", run.requests);
    }
}

#[test]
fn what_is_fetched_after_the_move_is_not_sent_again() {
    for disk in ["postcopy-seq", "postcopy-hot", "postcopy-trace"] {
        let text = format!(
            "name = \"x\"\n[disk]\nsize = \"4G\"\n[ram]\nsize = \"1G\"\ndirty = \"50M/s\"\n[link]\nrate = \"1Gbit\"\n\
             [workload]\npreset = \"oltp\"\n[strategies]\ndisk = [\"{disk}\"]\nram = [\"postcopy\"]\n"
        );
        let run = outcome(&text).record;
        assert!(run.converged && run.faults > 100, "{run:?}");
        assert!(run.resent_share < 1e-6 && (run.amplification - 1.0).abs() < 1e-3, "{disk}: {run:?}");
    }
}

#[test]
fn the_faulted_share_is_that_of_what_the_guest_uses() {
    let text = "name = \"x\"\n[disk]\nsize = \"64G\"\n[link]\nrate = \"1Gbit\"\n[workload]\npreset = \"random\"\n\
                working-set = \"256M\"\n[strategies]\ndisk = [\"postcopy-seq\"]\n";
    let run = outcome(text).record;
    assert!(run.faulted_share > 0.5 && run.faulted_share <= 1.0, "{run:?}");
}

#[test]
fn the_longest_wait_of_a_line_is_no_shorter_than_its_percentile() {
    let texts = [include_str!("../examples/presets.toml"), include_str!("../examples/presets-ram.toml")];
    for text in texts {
        let experiment = Experiment::parse("presets", text).unwrap();
        for strategy in &experiment.strategies {
            for line in crate::run_one(&experiment, 0, strategy, 1).series {
                assert!(line.max_ms * 1.04 >= line.p99_ms, "{line:?}");
            }
        }
    }
}

#[test]
fn no_request_waits_for_much_longer_than_the_blackout() {
    let text = "name = \"x\"\n[disk]\nsize = \"10G\"\n[source]\ndevice = \"hdd-7200\"\n[target]\ndevice = \"hdd-7200\"\n\
                [link]\nrate = \"1Gbit\"\n[workload]\npreset = \"random\"\nrate = 100\n[strategies]\n\
                disk = [\"stop-and-copy\"]\n";
    let run = outcome(text).record;
    let idle = {
        let text = text.replace("stop-and-copy", "mirror-background");
        outcome(&(text + "[limits]\ndeadline = \"1s\"\n")).record.max_ms
    };
    assert!(run.blackout_ms > 80_000.0 && run.max_ms <= run.blackout_ms * 1.05 + idle, "{run:?}");
}

#[test]
fn after_a_cut_all_clients_of_a_closed_loop_were_late() {
    let text = "name = \"x\"\n[disk]\nsize = \"10G\"\n[source]\ndevice = \"hdd-7200\"\n[target]\ndevice = \"hdd-7200\"\n\
                [link]\nrate = \"1Gbit\"\n[workload]\ndepth = 8\n[strategies]\ndisk = [\"postcopy-seq\"]\n\
                [faults]\nlink-cut = [\"30s for 10s\"]\n";
    let series = outcome(text).series;
    let after = series.iter().find(|line| line.t_s > 35.0 && line.iops > 0.0).unwrap();
    let before = series.iter().rfind(|line| line.t_s < 30.0).unwrap();
    assert!((9_500.0..10_500.0).contains(&(after.p99_ms - before.p99_ms)), "{after:?} {before:?}");
    let later = series.iter().find(|line| line.t_s > after.t_s + 3.0).unwrap();
    assert!(later.p99_ms < 3_000.0, "{later:?}");
}

#[test]
fn rounds_that_cost_nothing_do_not_become_endless() {
    let text = "name = \"x\"\n[ram]\nsize = \"1G\"\ndirty = \"50M/s\"\nworking-set = \"100M\"\nround-cost = \"0s\"\n\
                [strategies]\nram = [\"precopy\"]\n[limits]\ndowntime = \"0s\"\ndeadline = \"10min\"\n";
    let run = outcome(text).record;
    assert!(run.end == End::Late && run.total_s >= 600.0, "{run:?}");
    // A step is 10 ms here.
    assert!(run.rounds > 1000 && run.rounds < 1000 + 60_100, "{}", run.rounds);
}

/// Requests that arrive when the run is over would be requests without time.
#[test]
fn the_requests_of_a_run_are_those_of_its_time() {
    let text = "name = 'x'\n[disk]\nsize = '64M'\n[workload]\nrate = 1000\nread = 0.5\n[strategies]\ndisk = ['mirror-io', 'stop-and-copy']\n";
    for run in runs(text) {
        // A tenth of a second more would be 100 requests in a run of 50 ms.
        let expected = 1000.0 * run.total_s;
        assert!((run.requests as f64 - expected).abs() < 35.0, "{run:?}");
    }
}
