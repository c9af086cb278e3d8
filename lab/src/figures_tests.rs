use super::*;

fn all_hold(figure: &Figure) {
    for check in &figure.checks {
        assert!(check.holds, "{}: {}: {}", figure.name, check.text, check.seen);
    }
    assert!(figure.rows.iter().all(|row| row.len() == figure.columns.len()));
    assert!(figure.svg.starts_with("<svg") && figure.svg.ends_with("</svg>"), "{}", figure.svg);
    assert!(!figure.svg.contains("NaN"), "{}", figure.svg);
}

#[test]
fn kubevirt_is_calibrated_on_its_own_column_alone_and_predicts_the_other() {
    let mut opened = Vec::new();
    let model = calibrate(&mut |name| {
        opened.push(name.to_owned());
        kubevirt::file(name)
    });
    opened.sort();
    opened.dedup();
    assert_eq!(opened, ["conditions.toml", "without.toml"]);
    all_hold(&kubevirt::compare(&model.unwrap()).unwrap());
}

#[test]
fn the_orderings_of_esx_hold_for_20_seeds_of_20() {
    all_hold(&make("esx-2011").unwrap().unwrap());
}

#[test]
fn rounds_follow_their_closed_form_within_one_percent() {
    all_hold(&make("precopy-theory").unwrap().unwrap());
}

#[test]
fn the_order_of_a_copy_after_the_move_decides_its_faults() {
    all_hold(&make("postcopy-order").unwrap().unwrap());
}

#[test]
fn every_strategy_has_its_exposure() {
    let figure = make("exposure").unwrap().unwrap();
    all_hold(&figure);
    assert_eq!(figure.rows.len(), crate::presets::DISK.len());
}

#[test]
fn the_tiers_agree_at_ten_of_twelve_points() {
    all_hold(&make("tiers").unwrap().unwrap());
}

#[test]
fn every_figure_that_is_listed_can_be_made_and_no_other() {
    assert!(FIGURES.iter().all(|(name, text)| !name.is_empty() && !text.is_empty()));
    assert!(make("esx-2012").is_none());
    assert_eq!(suggestion("esx-2012"), "; did you mean 'esx-2011'?");
    assert_eq!(list().lines().count(), FIGURES.len());
}

#[test]
fn a_figure_as_text_has_columns_and_says_what_fails() {
    let figure = Figure {
        name: "x",
        title: "Title.".to_owned(),
        columns: vec!["name".to_owned(), "s".to_owned()],
        rows: vec![vec!["a".to_owned(), "10.5".to_owned()]],
        checks: vec![Check::near("time", 2.0, 1.0, 0.1)],
        svg: String::new(),
    };
    let text =
        "Title.\n\nname     s\na     10.5\n\nFAILS  time within 10 %: 2.000 instead of 1.000 (+100.0 %)\n";
    assert_eq!(figure.text(), text);
}
