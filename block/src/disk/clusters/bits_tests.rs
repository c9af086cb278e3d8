use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn bits_are_a_set_of_numbers(
        changes in prop::collection::vec((any::<bool>(), 0_u64..400, 0_u64..200), 1..20),
        at in 0_u64..700,
    ) {
        let mut bits = Bits::default();
        bits.grow(600);
        let mut model = vec![false; 640];
        for (set, start, len) in changes {
            let range = start..start + len;
            let within = &mut model[start as usize..(start + len) as usize];
            if set {
                prop_assert_eq!(bits.set(range), within.contains(&false));
            } else {
                bits.clear(range);
            }
            within.fill(set);
        }
        model.resize(1000, false);
        let (value, end) = bits.run(at, 900);
        prop_assert_eq!(value, model[at as usize]);
        let like = model[at as usize..900].iter().take_while(|bit| **bit == value).count() as u64;
        prop_assert_eq!(end, at + like);
        bits.halve();
        for bit in 0..450 {
            prop_assert_eq!(bits.run(bit as u64, 1000).0, model[2 * bit] || model[2 * bit + 1]);
        }
    }
}
