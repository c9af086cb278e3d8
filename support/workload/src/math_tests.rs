use super::*;

fn close(ours: f64, theirs: f64) -> bool {
    (ours - theirs).abs() <= 1e-13 * theirs.abs().max(1e-300) || (ours - theirs).abs() < 1e-15
}

#[test]
fn they_agree_with_the_library_of_this_machine() {
    let mut x = 1e-12;
    while x < 1e15 {
        assert!((ln(x) - x.ln()).abs() <= 1e-13 * x.ln().abs().max(1.0), "ln {x}");
        x *= 1.07;
    }
    for step in -6000..6000 {
        let x = f64::from(step) * 0.1;
        assert!(((exp(x) - x.exp()) / x.exp()).abs() < 1e-12, "exp {x}");
    }
    for (x, y) in [(2.0, 10.0), (0.5, 0.9), (1e9, -0.9), (3.0, 0.0), (0.0, 2.0)] {
        assert!((pow(x, y) - f64::powf(x, y)).abs() <= 1e-12 * f64::powf(x, y));
    }
    assert!(close(hit(1e-9), 1e-9 - 0.5e-18));
    assert!(close(hit(0.01), -f64::exp_m1(-0.01)) && close(hit(0.009_999), -f64::exp_m1(-0.009_999)));
    assert!((hit(1.0) - 0.632_120_558_828_557_7).abs() < 1e-13);
}

#[test]
fn the_ends_of_the_range() {
    assert_eq!(ln(0.0), f64::NEG_INFINITY);
    assert!(ln(-1.0).is_nan() && ln(f64::NAN).is_nan() && exp(f64::NAN).is_nan());
    assert_eq!(ln(f64::INFINITY), f64::INFINITY);
    assert_eq!((exp(-800.0), exp(800.0), exp(0.0)), (0.0, f64::INFINITY, 1.0));
    assert!((ln(5e-324) - 5e-324_f64.ln()).abs() < 1e-9);
}

#[test]
fn the_mean_of_exponential_numbers_is_1() {
    let mut random = Random::new(1);
    let mean = (0..100_000).map(|_| exponential(&mut random)).sum::<f64>() / 100_000.0;
    assert!((mean - 1.0).abs() < 0.02);
}
