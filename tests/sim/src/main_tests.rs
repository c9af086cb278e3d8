use super::*;

#[test]
fn the_scenarios_of_block_are_found() {
    let all = scenarios().unwrap();
    assert!(all.len() > 40, "{all:?}");
    assert!(all.iter().any(|name| name == "faults::a_failed_sync_is_never_forgotten"), "{all:?}");
    // It needs no seed.
    assert!(!all.iter().any(|name| name.starts_with("large::")), "{all:?}");
    // Every one is a test of the module that its file is.
    let tests = std::fs::read_to_string(workspace().join("block/src/tests.rs")).unwrap();
    for name in &all {
        if let Some((module, _)) = name.split_once("::") {
            assert!(tests.contains(&format!("\nmod {module};")), "{name}");
        }
    }
}

#[test]
fn names_are_found_by_a_part_that_only_one_has() {
    let all = ["a::power_cut", "a::power_cuts", "b::resize"].map(str::to_owned);
    assert_eq!(find("power_cut", &all), Ok("a::power_cut"));
    assert_eq!(find("a::power_cut", &all), Ok("a::power_cut"));
    assert_eq!(find("size", &all), Ok("b::resize"));
    assert!(find("power", &all).unwrap_err().contains("a::power_cut, a::power_cuts"));
    assert!(find("none", &all).is_err());
}
