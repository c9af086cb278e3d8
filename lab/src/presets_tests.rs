use super::*;
use crate::record::RunRecord;
use crate::{Experiment, assertion};

#[test]
fn every_preset_that_is_listed_exists_and_has_a_source() {
    for preset in DISK {
        let name = preset.name.replace("(W)", "(64M)").replace("(P)", "(0.5)");
        assert_eq!(disk(&name).unwrap().name(), name);
        assert!(!preset.source.is_empty() && !preset.does.is_empty());
    }
    for preset in RAM {
        assert_eq!(ram(preset.name).unwrap().name(), preset.name);
    }
}

#[test]
fn values_that_make_no_sense_are_no_presets() {
    for name in ["hybrid(2)", "hybrid(x)", "hybrid(", "mirror-behind(0)", "mirror-io(1)", "dbt()", ""] {
        assert!(disk(name).is_none(), "{name}");
    }
    assert!(ram("precopy(1)").is_none());
}

/// Columns that say which run it is, not what came of it, or that follow from others.
const NAMES: [&str; 3] = ["point", "seed", "prediction_error_percent"];

/// Figures of a run in which two presets may differ.
fn figures(record: &RunRecord) -> Vec<f64> {
    let columns = assertion::columns();
    let kept = columns.iter().filter(|column| !NAMES.contains(&column.as_str()));
    kept.filter_map(|column| assertion::value(record, column)).collect()
}

#[test]
fn every_preset_differs_from_every_other_in_a_figure_of_a_shipped_example() {
    let texts = [include_str!("../examples/presets.toml"), include_str!("../examples/presets-ram.toml")];
    for (text, count) in texts.into_iter().zip([DISK.len(), RAM.len()]) {
        let experiment = Experiment::parse("presets", text).unwrap();
        assert_eq!(experiment.strategies.len(), count);
        let run = |strategy| crate::run_one(&experiment, 0, strategy, 1).record;
        let runs: Vec<RunRecord> = experiment.strategies.iter().map(run).collect();
        for (index, one) in runs.iter().enumerate() {
            for other in &runs[..index] {
                let pairs = figures(one).into_iter().zip(figures(other));
                let differs =
                    pairs.into_iter().any(|(a, b)| (a - b).abs() > 0.05 * a.abs().max(b.abs()) + 1e-6);
                assert!(differs, "{} and {} are the same", one.strategy, other.strategy);
            }
        }
    }
}
