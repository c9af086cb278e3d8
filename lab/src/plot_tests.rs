use super::*;

#[test]
fn names_cannot_leave_their_place() {
    let name = "<script>alert('\"&')</script>\u{1}";
    let chart = Chart::new(
        name,
        Axis::new(name, Unit::Plain),
        Axis::new(name, Unit::Plain),
        vec![Series::points(name, 0, vec![(1.0, 1.0)])],
    );
    let svg = standalone(&chart.svg());
    assert!(!svg.contains("<script") && !svg.contains('\u{1}'), "{svg}");
    assert!(svg.starts_with("<svg class=\"plot\"") && svg.contains("xmlns="), "{svg}");
}

#[test]
fn series_can_be_told_apart() {
    let looks: std::collections::BTreeSet<String> =
        (0..16).map(|index| class(index) + &marker(index, 0.0, 0.0)).collect();
    assert_eq!(looks.len(), 16);
}

#[test]
fn a_long_name_is_shortened_to_its_room() {
    let long = "mirror-background+precopy-localmin(0.5)".repeat(3);
    let short = fit(&long, 200.0);
    assert!(short.ends_with('…') && text_width(&short) <= 210.0, "{short}");
    assert_eq!(fit("short", 200.0), "short");
}
