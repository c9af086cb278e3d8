use std::collections::BTreeSet;

use executor::Executor;

use super::*;

/// Against a set of numbers, with random ranges.
#[test]
fn it_is_a_set() {
    Executor::simulated(7).block_on(async {
        let random = |n: u64| executor::random() % n;
        for _ in 0..200 {
            let granule = 1 << random(6);
            let size = 1 + random(granule * 20_000);
            let mut bitmap = Bitmap::new(size, granule);
            let mut model = BTreeSet::new();
            for _ in 0..40 {
                let start = random(size);
                let end = (start + random([8, 300, size][random(3) as usize])).min(size);
                let touched = if start == end { 0..0 } else { start / granule..end.div_ceil(granule) };
                if random(2) == 0 {
                    bitmap.insert(&(start..end));
                    model.extend(touched);
                } else {
                    bitmap.remove(&(start..end));
                    model.retain(|n| !touched.contains(n));
                }
                assert_eq!(bitmap.count(), model.len() as u64);
                let from = random(size);
                let next = bitmap.next(&(from..size), u64::MAX);
                let first = model.range(from / granule..).next().copied();
                assert_eq!(next.as_ref().map(|range| range.start / granule), first);
                if let Some(range) = next {
                    let run = (range.start / granule..).take_while(|n| model.contains(n)).count() as u64;
                    assert_eq!(range.end - range.start, run * granule);
                    let two = bitmap.next(&(from..size), 2 * granule).unwrap();
                    assert_eq!(two.end - two.start, run.min(2) * granule);
                }
                let at = random(size);
                assert_eq!(bitmap.contains(at), model.contains(&(at / granule)));
            }
        }
    });
}

#[test]
fn ranges_beyond_the_end_and_empty_ones() {
    let mut bitmap = Bitmap::new(100, 64);
    bitmap.insert(&(50..50));
    assert_eq!(bitmap.count(), 0);
    bitmap.insert(&(0..u64::MAX));
    assert_eq!(bitmap.count(), 2);
    bitmap.remove(&(128..1000));
    assert_eq!(bitmap.next(&(64..128), 1), Some(64..128));
    assert_eq!(bitmap.next(&(128..1000), 1), None);
    assert!(!bitmap.contains(u64::MAX));
    assert_eq!(Bitmap::new(0, 64).next(&(0..1), 1), None);
}
