use super::*;

#[test]
fn all_presets_are_possible_on_a_disk_of_a_gibibyte() {
    for name in PRESETS {
        let spec = Spec::preset(name).unwrap();
        assert_eq!(spec.check(1 << 30), Ok(()), "{name}");
    }
    assert!(Spec::preset("olpt").is_none());
}

#[test]
fn impossible_values_are_named() {
    let key = |spec: Spec| spec.check(1 << 20).unwrap_err().key;
    let open = Arrival::Open { rate: f64::NAN, poisson: true };
    assert_eq!(key(Spec { arrival: open, ..Spec::default() }), "rate");
    assert_eq!(key(Spec { arrival: Arrival::Closed { depth: 0 }, ..Spec::default() }), "depth");
    assert_eq!(key(Spec { read: 1.5, ..Spec::default() }), "read");
    assert_eq!(key(Spec { working_set: Some(2 << 20), ..Spec::default() }), "working-set");
    assert_eq!(key(Spec { sizes: vec![(1000, 1.0)], ..Spec::default() }), "sizes");
    assert_eq!(key(Spec { sizes: vec![], ..Spec::default() }), "sizes");
    assert_eq!(key(Spec { offsets: Offsets::Zipf(-1.0), ..Spec::default() }), "zipf");
    assert_eq!(key(Spec { offsets: Offsets::Strided(7), ..Spec::default() }), "stride");
    assert_eq!(key(Spec { offsets: Offsets::Phases(vec![]), ..Spec::default() }), "phases");
    let hotspot = Offsets::Hotspot { requests: 0.9, space: 0.0 };
    assert_eq!(key(Spec { offsets: hotspot, ..Spec::default() }), "hotspot");
    assert_eq!(key(Spec { burst: 1.5, ..Spec::default() }), "burst");
    assert_eq!(key(Spec { flush_every: 1, ..Spec::default() }), "flush-every");
}
