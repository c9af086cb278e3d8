use super::*;

#[test]
fn columns_are_aligned() {
    let rows = [["a", "1 s"], ["long name", "12 ms"]].map(|row| row.map(str::to_owned).to_vec());
    assert_eq!(table(&rows), "a            1 s\nlong name  12 ms\n");
    assert_eq!(table(&[]), "");
}

#[test]
fn an_interval_is_printed_if_it_matters() {
    let of = |low, median, high| with_interval(Unit::Seconds, &Interval { low, median, high, n: 5 });
    assert_eq!(of(10.0, 10.0, 10.0), "10 s");
    assert_eq!(of(9.99, 10.0, 10.01), "10 s");
    assert_eq!(of(9.0, 10.0, 11.0), "10 s ±10%");
    assert_eq!(of(1.0, 10.0, 50.0), "10 s (1 s to 50 s)");
    assert_eq!(of(1.0, 10.0, f64::INFINITY), "10 s (1 s to never)");
    assert_eq!(of(f64::INFINITY, f64::INFINITY, f64::INFINITY), "never");
}
