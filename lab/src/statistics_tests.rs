use super::*;
use statrs::statistics::{Data, OrderStatistics};
use workload::Random;

#[test]
fn medians_and_quantiles_are_those_of_statrs() {
    let mut random = Random::new(1);
    for n in 1..60 {
        let values: Vec<f64> = (0..n).map(|_| random.normal() * 10.0).collect();
        let mut oracle = Data::new(values.clone());
        assert!((median(&values).unwrap() - oracle.median()).abs() < 1e-12, "{n}");
        // The estimate of statrs is another one (type 8), which agrees at the ends and in the middle.
        for q in [0.0, 0.5, 1.0] {
            assert!((quantile(&values, q).unwrap() - oracle.quantile(q)).abs() < 1e-9, "{n} {q}");
        }
    }
}

#[test]
fn a_quantile_lies_between_its_neighbours() {
    assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 0.25), Some(1.75));
    assert_eq!(quantile(&[7.0], 0.99), Some(7.0));
    assert_eq!(quantile(&[], 0.5), None);
    assert_eq!(median(&[]), None);
}

#[test]
fn runs_that_never_ended_count_as_infinite() {
    let never = f64::INFINITY;
    assert_eq!(median(&[1.0, never, never]), Some(never));
    assert_eq!(median(&[1.0, 2.0, never]), Some(2.0));
    assert_eq!(median(&[never, never]), Some(never));
    assert_eq!(median(&[1.0, never]), Some(never));
    assert_eq!(quantile(&[1.0, never, never], 1.0), Some(never));
    assert_eq!(median(&[-never, 3.0]), Some(-never));
    assert_eq!(median(&[-never, never]), Some(0.0));
}
