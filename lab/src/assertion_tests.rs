use super::*;

fn runs(values: &[f64]) -> Vec<RunRecord> {
    let record = |(seed, value): (usize, &f64)| RunRecord {
        strategy: "dbt".to_owned(),
        seed: seed as u64,
        blackout_ms: *value,
        converged: true,
        ..RunRecord::default()
    };
    values.iter().enumerate().map(record).collect()
}

fn assertion(key: &str, text: &str) -> Assertion {
    let strategies = [Strategy { disk: Some("dbt".to_owned()), ram: None }];
    Assertion::parse(key, text, &strategies).unwrap()
}

#[test]
fn statistics_of_the_runs_are_compared_in_the_unit_of_the_column() {
    let runs = runs(&[1.0, 2.0, 3.0, 100.0]);
    for (key, text, holds) in [
        ("dbt.blackout", "<3ms", true),
        ("dbt.blackout_ms.median", "<2.5", false),
        ("dbt.blackout_ms.median", "<=2.5", true),
        ("dbt.blackout.max", ">=0.1s", true),
        ("dbt.blackout.min", "=1ms", true),
        ("dbt.blackout.all", "<100ms", false),
        ("dbt.blackout.all", ">0.5ms", true),
        ("dbt.blackout.mean", ">26ms", true),
        ("dbt.blackout.p99", ">99ms", true),
        ("dbt.converged", "all", true),
        ("dbt.converged", "none", false),
    ] {
        assert_eq!(assertion(key, text).check(&runs).holds, holds, "{key} {text}");
    }
}

#[test]
fn each_point_of_a_sweep_has_to_hold() {
    let mut runs = runs(&[1.0, 1.0, 9.0]);
    runs[2].point = 1;
    let checked = assertion("dbt.blackout", "<5ms").check(&runs);
    assert_eq!(checked, Checked { holds: false, seen: "blackout_ms = 1.0000, 9.0000".to_owned() });
    assert!(!assertion("dbt.blackout", "<5ms").check(&[]).holds);
}

#[test]
fn the_times_of_a_run_that_did_not_move_are_infinite() {
    let mut run = RunRecord { total_s: 1.0, independence_s: 1.0, predicted_s: 1.0, ..runs(&[1.0]).remove(0) };
    let holds = |run: &RunRecord, key: &str, text: &str| {
        let checked = assertion(key, text).check(std::slice::from_ref(run));
        (checked.holds, checked.seen)
    };
    assert!(holds(&run, "dbt.total", "<10s").0 && holds(&run, "dbt.independence", "<10s").0);
    run.converged = false;
    assert_eq!(holds(&run, "dbt.total", "<10s"), (false, "total_s = inf".to_owned()));
    assert!(!holds(&run, "dbt.independence.all", "<10s").0);
    assert!(!holds(&run, "dbt.prediction_error_percent", "<10").0);
}

#[test]
fn a_prediction_may_be_wrong_in_both_directions_and_infinitely() {
    let mut run = runs(&[1.0]).remove(0);
    let holds =
        |run: &RunRecord, key: &str, text: &str| assertion(key, text).check(std::slice::from_ref(run)).holds;
    run.prediction_error_percent = -60.0;
    assert!(!holds(&run, "dbt.prediction_error_percent", "<50"));
    assert!(holds(&run, "dbt.prediction_error_percent", "<=60"));
    (run.predicted_s, run.prediction_error_percent) = (f64::INFINITY, f64::INFINITY);
    assert!(!holds(&run, "dbt.predicted", "<10h"));
    assert!(!holds(&run, "dbt.prediction_error_percent", "<1000000"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.serialize(&run).unwrap();
    let bytes = writer.into_inner().unwrap();
    let read = csv::Reader::from_reader(&bytes[..]).into_deserialize().next().unwrap();
    assert_eq!(run, read.unwrap());
}
