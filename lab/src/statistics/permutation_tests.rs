use super::*;
use statrs::distribution::{Binomial, DiscreteCDF};

/// With differences of one size the test is a sign test, whose p-value is a binomial tail.
fn sign_test(plus: u64, n: u64) -> f64 {
    let fewer = plus.min(n - plus);
    (2.0 * Binomial::new(0.5, n).unwrap().cdf(fewer)).min(1.0)
}

fn differences(plus: u64, n: u64) -> Vec<f64> {
    (0..n).map(|i| if i < plus { 1.0 } else { -1.0 }).collect()
}

#[test]
fn equal_differences_give_the_p_value_of_the_sign_test() {
    for n in 1..=14 {
        for plus in 0..=n {
            let (found, oracle) = (p_value(&differences(plus, n)), sign_test(plus, n));
            assert!((found - oracle).abs() < 1e-9, "{plus} of {n}: {found} and {oracle}");
        }
    }
}

#[test]
fn many_pairs_are_sampled_close_to_the_exact_value() {
    for plus in [10, 13, 14, 15] {
        let (found, oracle) = (p_value(&differences(plus, 20)), sign_test(plus, 20));
        assert!((found - oracle).abs() < 0.012, "{plus}: {found} and {oracle}");
    }
    let most = p_value(&differences(90, 100));
    assert!(most > 0.0 && most < 1e-4, "{most}");
}

#[test]
fn differences_of_nothing_show_nothing() {
    assert_eq!(p_value(&[]), 1.0);
    assert_eq!(p_value(&[0.0; 20]), 1.0);
    assert_eq!(p_value(&[0.1, -0.1]), 1.0);
}

#[test]
fn a_side_that_never_ends_is_the_longer_one() {
    let never = f64::INFINITY;
    assert_eq!(p_value(&[never; 6]), smallest(6));
    assert_eq!(p_value(&[never, never, never, never, never, never, 0.5, f64::NAN]), smallest(7));
    assert_eq!(p_value(&[never, -never]), 1.0);
}

#[test]
fn the_smallest_value_is_that_of_differences_of_one_sign() {
    for n in 1..=40 {
        assert_eq!(p_value(&vec![2.5; n]), smallest(n));
        assert!((smallest(n) - sign_test(0, n as u64)).abs() < 1e-9);
    }
    assert_eq!(smallest(0), 1.0);
}
