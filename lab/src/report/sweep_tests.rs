use super::*;

#[test]
fn values_with_blanks_stay_whole() {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(
        settings("workload.offsets=hotspot 0.9 0.1 link.rate=10Gbit"),
        [pair("workload.offsets", "hotspot 0.9 0.1"), pair("link.rate", "10Gbit")]
    );
    assert_eq!(settings(""), []);
}

#[test]
fn values_stand_where_their_numbers_are() {
    let (places, axis_of) = axis("link.rate", &["10Gbit", "1Gbit", "100Mbit"]);
    assert!(axis_of.log && places[0].0 == 10.0 * places[1].0);
    assert_eq!(axis_of.ticks[0].1, "100Mbit");
    let (places, axis_of) = axis("target.device", &["nvme", "hdd-7200"]);
    assert_eq!(places, [(0.0, 0), (1.0, 0)]);
    assert_eq!(axis_of.ticks[1].1, "hdd-7200");
}
