use super::*;

#[test]
fn as_many_requests_arrive_as_the_rate_says() {
    let arrival = Arrival::Open { rate: 5.0, poisson: true };
    let mut guest = Guest::new(&Spec { arrival, ..Spec::default() }, 1);
    let sum: f64 = (0..100_000).map(|step| guest.arrivals(f64::from(step) / 100.0, 0.01)).sum();
    assert!((sum / 5000.0 - 1.0).abs() < 0.03, "{sum}");
}
