use super::*;
use crate::plot::Unit;

fn chart(series: Vec<Series>) -> Chart {
    Chart::new("title", Axis::new("time", Unit::Seconds), Axis::new("size", Unit::Bytes), series)
}

#[test]
fn values_that_cannot_be_shown_break_a_line() {
    let points = vec![(0.0, 1.0), (1.0, 2.0), (2.0, f64::INFINITY), (3.0, 2.0), (4.0, 3.0)];
    let svg = chart(vec![Series::line("a", 0, points)]).svg();
    assert_eq!(svg.matches("<path class=\"l").count(), 2, "{svg}");
    assert!(!svg.contains("inf") && !svg.contains("NaN"), "{svg}");
}

#[test]
fn a_point_between_gaps_is_still_seen() {
    let points = vec![(0.0, f64::NAN), (1.0, 2.0), (2.0, f64::NAN)];
    let svg = chart(vec![Series::line("a", 0, points)]).svg();
    assert!(svg.contains("<circle"), "{svg}");
}

#[test]
fn a_chart_without_values_says_so() {
    let svg = chart(vec![Series::points("a", 0, vec![(1.0, f64::INFINITY)])]).svg();
    assert!(svg.contains("no run has such a value"), "{svg}");
}

#[test]
fn labels_below_an_axis_do_not_touch() {
    let axis = Axis::new("", Unit::Seconds).log();
    let chart = Chart::new(
        "",
        axis,
        Axis::new("", Unit::Seconds),
        vec![Series::line("a", 0, vec![(1e-6, 1.0), (1e9, 2.0)])],
    );
    let svg = chart.svg();
    let places: Vec<f64> = svg
        .split("<text class=\"t mid\" x=\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap().parse().unwrap())
        .collect();
    assert!(places.len() > 4);
    // The last is the title of the axis.
    assert!(places[..places.len() - 1].windows(2).all(|pair| pair[1] - pair[0] > 30.0), "{places:?}");
}
