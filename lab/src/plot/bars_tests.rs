use super::*;
use crate::plot::Unit;

#[test]
fn each_part_is_drawn_and_named() {
    let bars = Bars {
        title: "exposure".to_owned(),
        axis: Axis::new("time", Unit::Seconds),
        parts: vec!["nothing".to_owned(), "data lost".to_owned()],
        bars: vec![("a & b".to_owned(), vec![3600.0, 0.001]), ("c".to_owned(), vec![0.0, f64::NAN])],
    };
    let svg = bars.svg();
    assert!(svg.contains("a &amp; b: data lost, 1 ms"), "{svg}");
    assert_eq!(svg.matches("height=\"16\"").count(), 2, "{svg}");
    assert!(svg.contains("width=\"1\""), "the smallest part can be seen: {svg}");
}

#[test]
fn no_bars_are_a_plot_too() {
    let bars = Bars {
        title: String::new(),
        axis: Axis::new("", Unit::Seconds),
        parts: Vec::new(),
        bars: Vec::new(),
    };
    assert!(bars.svg().ends_with("</svg>"));
}
