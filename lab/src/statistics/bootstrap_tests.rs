use super::*;
use statrs::distribution::{Binomial, DiscreteCDF};
use workload::math::exponential;

/// The distribution of a resample's median is known if `n` is odd: it is at most the value of rank k exactly
/// if more than half of n draws have at most this rank, and each has it with probability k/n.
fn exact(n: u64, q: f64) -> u64 {
    (1..=n).find(|&k| 1.0 - Binomial::new(k as f64 / n as f64, n).unwrap().cdf((n - 1) / 2) >= q).unwrap()
}

#[test]
fn intervals_are_those_of_the_exact_distribution() {
    for n in [5_u64, 9, 15, 21, 101] {
        let values: Vec<f64> = (1..=n).map(|rank| rank as f64).collect();
        let found = interval(&values).unwrap();
        assert_eq!(found.median, n.div_ceil(2) as f64);
        assert_eq!(found.n, n as usize);
        // 10,000 resamples may miss a step of the distribution by one rank.
        assert!((found.low - exact(n, 0.025) as f64).abs() <= 1.0, "{n}: {found:?}");
        assert!((found.high - exact(n, 0.975) as f64).abs() <= 1.0, "{n}: {found:?}");
    }
}

#[test]
fn more_than_nine_of_ten_intervals_hold_the_true_median() {
    let mut random = Random::new(3);
    let held = (0..300)
        .filter(|_| {
            let values: Vec<f64> = (0..15).map(|_| exponential(&mut random)).collect();
            let found = interval(&values).unwrap();
            found.low <= std::f64::consts::LN_2 && std::f64::consts::LN_2 <= found.high
        })
        .count();
    assert!((267..=292).contains(&held), "{held} of 300");
}

#[test]
fn the_order_of_the_runs_does_not_matter() {
    let values = [3.0, 1.0, f64::INFINITY, 2.0, 5.0, 4.0];
    let mut turned = values;
    turned.reverse();
    assert_eq!(interval(&values), interval(&turned));
    assert_eq!(interval(&values).unwrap().median, 3.5);
}

#[test]
fn equal_runs_have_an_interval_of_no_width() {
    let found = interval(&[2.0; 8]).unwrap();
    assert_eq!((found.low, found.median, found.high), (2.0, 2.0, 2.0));
    assert_eq!(interval(&[]), None);
}
