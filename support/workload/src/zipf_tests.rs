use super::*;

#[test]
fn ranks_have_their_probabilities() {
    for theta in [0.0, 0.5, 0.9, 1.0, 1.3] {
        let n = 50;
        let zipf = Zipf::new(n, theta);
        let mut random = Random::new(3);
        let draws = 200_000;
        let mut counts = vec![0_u32; n as usize];
        for _ in 0..draws {
            counts[zipf.sample(&mut random) as usize] += 1;
        }
        let total: f64 = (1..=n).map(|k| (k as f64).powf(-theta)).sum();
        for (rank, count) in counts.iter().enumerate() {
            let expected = f64::from(draws) * ((rank + 1) as f64).powf(-theta) / total;
            // Five standard deviations.
            assert!(
                (f64::from(*count) - expected).abs() < 5.0 * expected.sqrt() + 1.0,
                "{theta} {rank} {count}"
            );
        }
        assert!(
            (zipf.share(10.0) - (1..=10).map(|k| f64::from(k).powf(-theta)).sum::<f64>() / total).abs()
                < 1e-9
        );
    }
}

#[test]
fn large_sets_and_sets_of_one() {
    let mut random = Random::new(5);
    assert!((0..100).all(|_| Zipf::new(1, 0.9).sample(&mut random) == 0));
    let large = Zipf::new(1 << 40, 0.99);
    assert!((0..1000).all(|_| large.sample(&mut random) < 1 << 40));
    assert!((large.share((1_u64 << 40) as f64) - 1.0).abs() < 1e-12);
}

#[test]
fn the_ranks_of_a_seed_never_change() {
    let (zipf, mut random) = (Zipf::new(1000, 0.9), Random::new(42));
    let ranks: Vec<u64> = (0..8).map(|_| zipf.sample(&mut random)).collect();
    assert_eq!(ranks, RANKS_OF_42);
}

/// Written down on 2026-11-28.
const RANKS_OF_42: [u64; 8] = [6, 413, 203, 134, 816, 1, 293, 3];
