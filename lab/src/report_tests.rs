use super::*;
use crate::record::RunInfo;
use crate::schedule::{Shard, jobs};
use crate::{Experiment, Strategy, run_one};

/// A sweep of many points with all disk strategies.
fn large() -> Results {
    let names: Vec<String> = crate::presets::disk_names().iter().map(|name| format!("\"{name}\"")).collect();
    let rates: Vec<String> = (1..=40).map(|i| format!("{}", i * 100)).collect();
    let text = format!(
        "name = \"large\"\n[disk]\nsize = \"1G\"\n[workload]\npreset = \"random\"\nrate = 1\n\
         [strategies]\ndisk = [{}]\n[sweep]\n\"workload.rate\" = [{}]\n[runs]\nseeds = 2\n",
        names.join(", "),
        rates.join(", ")
    );
    let experiment = Experiment::parse("large.toml", &text).unwrap();
    let all = jobs(experiment.points.len(), experiment.strategies.len(), &experiment.seeds, Shard::ALL);
    let run = |job| {
        let crate::schedule::Job { point, strategy, seed } = job;
        (job, run_one(&experiment, point, &experiment.strategies[strategy], seed))
    };
    let info = RunInfo {
        text: text.clone(),
        experiment: "large".to_owned(),
        tier: "fluid".to_owned(),
        seeds: experiment.seeds.clone(),
        strategies: experiment.strategies.iter().map(Strategy::name).collect(),
        points: experiment.points.iter().map(crate::Point::label).collect(),
        shard: "1/1".to_owned(),
        ..RunInfo::default()
    };
    Results::new(info, all.into_iter().map(run).collect())
}

#[test]
fn a_report_of_many_points_stays_below_three_mebibytes_and_loads_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let results = large();
    write(folder.path(), &results, Some(&results)).unwrap();
    let html = std::fs::read_to_string(folder.path().join(PAGE)).unwrap();
    assert!(html.len() <= 3 << 20, "{} bytes", html.len());
    assert!(html.len() > 100_000);
    for wrong in ["http:", "https:", "src=", "url(", "@import", "<script", "NaN", "inf\""] {
        assert!(!html.contains(wrong), "the page has {wrong}");
    }
    let plots = folder.path().join("plots").read_dir().unwrap();
    for plot in plots {
        let svg = std::fs::read_to_string(plot.unwrap().path()).unwrap();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>") && svg.contains("<style>"));
    }
}
