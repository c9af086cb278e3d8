use super::*;

#[test]
fn seeds_are_a_number_or_a_range() {
    assert_eq!("20".parse(), Ok(Seeds::Count(20)));
    assert_eq!("5-9".parse(), Ok(Seeds::Range(5, 9)));
    for wrong in ["0", "9-5", "-3", "a", "100001", "0-100000", "1-"] {
        assert!(wrong.parse::<Seeds>().is_err(), "{wrong}");
    }
}
