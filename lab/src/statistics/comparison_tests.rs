use super::*;
use workload::Random;

fn runs(values: impl IntoIterator<Item = f64>) -> Runs<()> {
    (0..).zip(values).map(|(seed, value)| ((seed, ()), value)).collect()
}

fn corrected(strategies: &[(String, Runs<()>)]) -> Vec<Comparison> {
    let mut found = compare(strategies);
    correct(&mut found);
    found
}

#[test]
fn holm_corrects_as_its_paper_does() {
    // 0.01 * 4, 0.03 * 3 for the second smallest, then never less than before.
    let found = holm(&[0.01, 0.04, 0.03, 0.005]);
    for (found, expected) in found.iter().zip([0.03, 0.06, 0.06, 0.02]) {
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
    }
    assert_eq!(holm(&[]), Vec::<f64>::new());
    assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
}

#[test]
fn a_small_difference_is_found_by_pairs_though_seeds_differ_a_lot() {
    let mut random = Random::new(4);
    let slow: Vec<f64> = (0..20).map(|_| 100.0 + 50.0 * random.unit()).collect();
    let fast = slow.iter().map(|value| value - 0.5 - 0.1 * random.unit());
    let fast = runs(fast.collect::<Vec<_>>());
    let found = &corrected(&[("slow".to_owned(), runs(slow)), ("fast".to_owned(), fast)])[0];
    assert_eq!(found.verdict, Verdict::SecondSmaller);
    let difference = found.difference.unwrap();
    assert!(difference.high < -0.5 && difference.low > -0.6, "{difference:?}");
}

#[test]
fn noise_alone_shows_no_difference() {
    let mut wrong = 0;
    for seed in 0..100 {
        let mut random = Random::new(seed);
        let mut arm =
            |name: &str| (name.to_owned(), runs((0..10).map(|_| random.normal()).collect::<Vec<_>>()));
        let strategies = [arm("a"), arm("b"), arm("c")];
        let found = corrected(&strategies);
        assert_eq!(found.len(), 3);
        wrong += u32::from(found.iter().any(|comparison| comparison.verdict != Verdict::NotShown));
    }
    // The level promises 5 of 100 experiments; 13 or more have a probability below one in a thousand.
    assert!(wrong < 13, "{wrong} of 100 experiments");
}

#[test]
fn runs_too_few_to_show_anything_are_named() {
    let found = corrected(&[("a".to_owned(), runs([1.0; 5])), ("b".to_owned(), runs([2.0; 5]))]);
    assert_eq!(found[0].verdict, Verdict::TooFewRuns);
    let found = corrected(&[("a".to_owned(), runs([1.0; 6])), ("b".to_owned(), runs([2.0; 6]))]);
    assert_eq!(found[0].verdict, Verdict::FirstSmaller);
}

#[test]
fn only_seeds_that_both_have_run_are_compared() {
    let a: Runs<()> = (0..10).map(|seed| ((seed, ()), 1.0)).collect();
    let b: Runs<()> = (5..20).map(|seed| ((seed, ()), 2.0)).collect();
    let c: Runs<()> = (100..110).map(|seed| ((seed, ()), 2.0)).collect();
    let found = corrected(&[("a".to_owned(), a), ("b".to_owned(), b), ("c".to_owned(), c)]);
    assert_eq!(found[0].pairs, 5);
    assert_eq!((found[1].pairs, found[1].difference), (0, None));
    assert_eq!(found[1].verdict, Verdict::TooFewRuns);
}

#[test]
fn a_strategy_that_never_ends_loses() {
    let never = runs([f64::INFINITY; 8]);
    let ends = runs([5.0; 8]);
    let found = &corrected(&[("never".to_owned(), never), ("ends".to_owned(), ends)])[0];
    assert_eq!(found.verdict, Verdict::SecondSmaller);
    assert_eq!(found.difference.unwrap().median, f64::NEG_INFINITY);
    let found =
        &corrected(&[("a".to_owned(), runs([f64::INFINITY; 8])), ("b".to_owned(), runs([f64::INFINITY; 8]))])
            [0];
    assert_eq!(found.verdict, Verdict::NotShown);
}

#[test]
fn the_points_of_a_sweep_are_no_repetitions() {
    let sweep =
        |value: f64| -> Runs<u32> { (0..20).map(|point| ((1, point), value + f64::from(point))).collect() };
    let mut arms = [("a".to_owned(), sweep(1.0)), ("b".to_owned(), sweep(2.0))];
    let found = &corrected_points(&arms)[0];
    assert_eq!((found.verdict, found.pairs), (Verdict::TooFewRuns, 1));
    // Of points that only one has, nothing is taken.
    arms[1].1.insert((1, 20), 1e9);
    arms[1].1.insert((1, 0), 22.0);
    assert_eq!(corrected_points(&arms)[0].difference.unwrap().median, 2.0);
}

fn corrected_points(arms: &[(String, Runs<u32>)]) -> Vec<Comparison> {
    let mut found = compare(arms);
    correct(&mut found);
    found
}

#[test]
fn runs_that_never_end_count_in_the_median_of_differences() {
    let first = runs((0..15).map(|seed| 10.0 + f64::from(seed)));
    let second = runs((0..15).map(|seed| if seed < 8 { f64::INFINITY } else { 7.0 + f64::from(seed) }));
    let found = &corrected(&[("first".to_owned(), first), ("second".to_owned(), second)])[0];
    let difference = found.difference.unwrap();
    assert_eq!((difference.median, difference.n), (f64::INFINITY, 15));
    assert_eq!(difference.low, -3.0);
    assert_eq!(found.verdict, Verdict::FirstSmaller);
}
