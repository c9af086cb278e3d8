use super::*;

const GOOD: &str = r#"name = "good"
[disk]
size = "64G"
[ram]
size = "8G"
dirty = "100M/s"
[source]
device = "sata-ssd"
[link]
rate = "1Gbit"
[workload]
preset = "oltp"
[strategies]
disk = ["mirror-io", "hybrid(0.25)"]
ram = ["precopy"]
[sweep]
"workload.rate" = [500, 1000]
"link.rate" = ["1Gbit", "10Gbit", "25Gbit"]
[faults]
link-cut = ["40% for 5s"]
[runs]
seeds = 3
[assert]
"mirror-io+precopy.blackout.p99" = "<1s"
"#;

fn error(from: &str, to: &str) -> (usize, String) {
    assert!(GOOD.contains(from), "{from}");
    let error = Experiment::parse("x.toml", &GOOD.replacen(from, to, 1)).unwrap_err();
    assert_eq!(error.file, "x.toml");
    (error.line, error.text)
}

#[test]
fn a_good_experiment() {
    let experiment = Experiment::parse("x.toml", GOOD).unwrap();
    let names: Vec<String> = experiment.strategies.iter().map(Strategy::name).collect();
    assert_eq!(names, ["mirror-io+precopy", "hybrid(0.25)+precopy"]);
    assert_eq!(experiment.seeds, [1, 2, 3]);
    assert_eq!(experiment.points.len(), 6);
    let labels: Vec<String> = experiment.points.iter().map(Point::label).collect();
    assert_eq!(labels[0], "link.rate=1Gbit workload.rate=500");
    assert_eq!(labels[5], "link.rate=25Gbit workload.rate=1000");
    let rates: Vec<f64> = experiment.points.iter().map(|point| point.setup.link.rate).collect();
    assert_eq!(rates, [125e6, 125e6, 1.25e9, 1.25e9, 3.125e9, 3.125e9]);
    assert_eq!(experiment.points[0].setup.source.name, "sata-ssd");
    let fault = Fault { party: Party::Link, when: When::Copied(0.4), length: 5.0 };
    assert_eq!(experiment.points[0].setup.faults, [fault]);
}

#[test]
fn errors_have_a_line_and_a_suggestion() {
    for (from, to, line, part) in [
        ("dirty =", "dirt =", 6, "unknown key 'ram.dirt'; did you mean 'dirty'?"),
        ("[workload]", "[wokload]", 11, "unknown key 'wokload'; did you mean 'workload'?"),
        ("\"oltp\"", "\"oltb\"", 12, "did you mean 'oltp'?"),
        ("\"sata-ssd\"", "\"sata-sdd\"", 8, "did you mean 'sata-ssd'?"),
        ("mirror-io\", ", "miror-io\", ", 14, "unknown disk strategy 'miror-io'; did you mean 'mirror-io'?"),
        ("hybrid(0.25)", "hybrid(25)", 14, "unknown disk strategy 'hybrid(25)'"),
        ("[\"precopy\"]", "[\"precpy\"]", 15, "did you mean 'precopy'?"),
        ("\"64G\"", "64", 3, "disk.size: give a size"),
        ("\"64G\"", "\"0\"", 3, "disk.size: give a size above 0"),
        ("\"workload.rate\" = [500", "\"workload.rate\" = [-1", 17, "workload.rate: give a number"),
        ("\"link.rate\" = [", "\"lnk.rate\" = [", 18, "did you mean 'link'?"),
        ("40% for 5s", "40%", 20, "faults.link-cut: give a list as in"),
        ("seeds = 3", "seeds = 0", 22, "runs.seeds: give a number from 1"),
        ("seeds = 3", "seeds = 2.5", 22, "runs.seeds: give a whole number"),
        ("seeds = 3", "seeds = 3\nfirst-seed = 0.5", 23, "runs.first-seed: give a whole number"),
        ("blackout.p99", "blackuot.p99", 24, "unknown metric 'blackuot'"),
        ("blackout.p99", "blackout.p98", 24, "unknown statistic 'p98'"),
        ("\"mirror-io+precopy.", "\"miror-io+precopy.", 24, "begins with no strategy"),
        ("\"<1s\"", "\"1s\"", 24, "give all, none, or <"),
        ("name = \"good\"", "name = ", 1, ""),
        ("name = \"good\"", "", 1, "'name' is missing"),
        ("[disk]\nsize = \"64G\"\n", "", 1, "a disk strategy needs [disk]"),
    ] {
        let (at, text) = error(from, to);
        assert!(at == line && text.contains(part), "{from} -> {to}: line {at}: {text}");
    }
}

#[test]
fn the_experiments_that_are_shipped_can_be_read() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut read = 0;
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = std::fs::read_to_string(&path).unwrap();
            Experiment::parse(&path.to_string_lossy(), &text).unwrap();
            read += 1;
        }
    }
    assert!(read > 0);
}

#[test]
fn keys_that_would_have_no_effect_are_refused() {
    for (keys, line, part) in [
        ("depth = 2.5", 13, "workload.depth: give a whole number"),
        ("fsync-writes = 1.5", 13, "workload.fsync-writes: give a whole number"),
        ("trim = 0.1", 13, "unknown key 'workload.trim'"),
        ("zipf = 0.5\noffsets = \"uniform\"", 14, "workload.offsets: give offsets or zipf"),
        ("fsync = \"1s\"\nfsync-writes = 4", 14, "workload.fsync-writes: give fsync or fsync-writes"),
    ] {
        let (at, text) = error("preset = \"oltp\"", &format!("preset = \"oltp\"\n{keys}"));
        assert!(at == line && text.contains(part), "{keys}: line {at}: {text}");
    }
}

#[test]
fn ram_that_no_strategy_moves_is_refused_unless_it_stays_on_purpose() {
    let text = GOOD.replace("\"mirror-io+precopy.", "\"mirror-io.");
    let without = text.replace("ram = [\"precopy\"]\n", "");
    let error = Experiment::parse("x.toml", &without).unwrap_err();
    assert!(
        error.line == 4 && error.text.starts_with("ram: has no effect without a RAM strategy"),
        "{error}"
    );
    let swept = without.replace("[ram]\nsize = \"8G\"\ndirty = \"100M/s\"\n", "");
    Experiment::parse("x.toml", &swept).unwrap();
    let swept = swept.replace("\"link.rate\" =", "\"ram.size\" = [\"1G\"]\n\"link.rate\" =");
    assert!(Experiment::parse("x.toml", &swept).unwrap_err().text.contains("has no effect"));
    Experiment::parse("x.toml", &text.replace("ram = [\"precopy\"]", "ram = []")).unwrap();
}
