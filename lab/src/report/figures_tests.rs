use super::*;

#[test]
fn the_front_has_what_nothing_beats() {
    let points = vec![(3.0, 1.0), (1.0, 3.0), (2.0, 2.0), (2.5, 2.5), (4.0, 1.0), (f64::INFINITY, 0.0)];
    assert_eq!(front(points), [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]);
}

#[test]
fn a_long_course_keeps_its_peaks() {
    let lines: Vec<SeriesPoint> = (0..10_000)
        .map(|i| SeriesPoint {
            t_s: f64::from(i),
            p99_ms: if i == 7777 { 50.0 } else { 1.0 },
            ..Default::default()
        })
        .collect();
    let course: Vec<&SeriesPoint> = lines.iter().collect();
    let curve = curve(&course, |line| line.p99_ms);
    assert!(curve.len() <= POINTS);
    assert_eq!(curve.iter().filter(|point| point.1 == 50.0).count(), 1);
}

#[test]
fn settings_are_numbers_with_units() {
    assert_eq!(number("500"), Some((500.0, Unit::Plain)));
    assert_eq!(number("64K"), Some((65536.0, Unit::Bytes)));
    assert_eq!(number("10Gbit"), Some((1.25e9, Unit::Rate)));
    assert_eq!(number("20ms"), Some((0.02, Unit::Seconds)));
    assert_eq!(number("nvme"), None);
}
