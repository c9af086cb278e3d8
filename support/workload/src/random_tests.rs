use super::*;

#[test]
fn the_numbers_of_a_seed_never_change() {
    // The first outputs of the reference implementation for seed 1234567.
    let mut random = Random::new(1_234_567);
    let expected = [6_457_827_717_110_365_317_u64, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
    assert_eq!([random.next_u64(), random.next_u64(), random.next_u64()], expected);
}

#[test]
fn means_are_those_of_the_distributions() {
    let mut random = Random::new(1);
    let n = 100_000;
    let mean = |f: &mut dyn FnMut() -> f64| (0..n).map(|_| f()).sum::<f64>() / f64::from(n);
    assert!((mean(&mut || random.unit()) - 0.5).abs() < 0.01);
    assert!((mean(&mut || random.exponential()) - 1.0).abs() < 0.02);
    assert!(mean(&mut || random.normal()).abs() < 0.02);
    assert!((mean(&mut || random.normal().powi(2)) - 1.0).abs() < 0.03);
    assert!((0..1000).all(|_| random.below(7) < 7));
    assert_eq!(random.below(0), 0);
}

#[test]
fn purposes_have_numbers_of_their_own() {
    assert_ne!(Random::of(1, "link").next_u64(), Random::of(1, "guest").next_u64());
    assert_eq!(Random::of(1, "link").next_u64(), Random::of(1, "link").next_u64());
}
