use super::*;

#[test]
fn every_preset_that_is_listed_exists_and_has_a_source() {
    for preset in DISK {
        let name = preset.name.replace("(W)", "(64M)").replace("(P)", "(0.5)");
        assert_eq!(disk(&name).unwrap().name(), name);
        assert!(!preset.source.is_empty() && !preset.does.is_empty());
    }
    for preset in RAM {
        assert_eq!(ram(preset.name).unwrap().name(), preset.name);
    }
}

#[test]
fn values_that_make_no_sense_are_no_presets() {
    for name in ["hybrid(2)", "hybrid(x)", "hybrid(", "mirror-behind(0)", "mirror-io(1)", "dbt()", ""] {
        assert!(disk(name).is_none(), "{name}");
    }
    assert!(ram("precopy(1)").is_none());
}
