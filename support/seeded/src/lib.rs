//! Random numbers that follow from a seed, for simulations, workloads and tests.
//!
//! A seed gives the same numbers for ever, on every machine: a failure is replayed from its seed, and a
//! workload from its description. Not for secrets.
//!
//! ```
//! use seeded::Random;
//!
//! let (mut one, mut other) = (Random::new(7), Random::new(7));
//! assert_eq!(one.next_u64(), other.next_u64());
//! assert!(one.below(10) < 10);
//! ```
//!
//! Tests: at the end of this file.

/// SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014): one word of
/// state.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// Creates a generator from a seed.
    pub const fn new(seed: u64) -> Self {
        Random { state: seed }
    }

    /// Creates a generator for one purpose of a seed. Generators of different purposes are independent, so
    /// that a change of one part of a simulation does not move the numbers of another.
    pub fn of(seed: u64, purpose: &str) -> Self {
        // FNV-1a, 64 bits.
        let hash = purpose.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        let mut random = Random::new(seed ^ hash);
        random.next_u64();
        random
    }

    /// Returns the next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `limit`, each with the same probability up to 2^-64; 0 if `limit` is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(limit)) >> 64) as u64
    }

    /// Returns a number from 0 up to, but without, 1.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns a number of about the standard normal distribution: a sum of twelve uniform ones (Irwin-Hall),
    /// which needs no function that differs between machines. It lies between -6 and 6.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }

    /// Returns this many random bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(8)).flat_map(|_| self.next_u64().to_le_bytes()).take(len).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_seed_never_change() {
        // The first outputs of the reference implementation for seed 1234567.
        let mut random = Random::new(1_234_567);
        let expected = [6_457_827_717_110_365_317_u64, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([random.next_u64(), random.next_u64(), random.next_u64()], expected);
    }

    #[test]
    fn numbers_keep_to_their_range_and_have_its_mean() {
        let mut random = Random::new(1);
        let n = 100_000;
        let mean = |f: &mut dyn FnMut() -> f64| (0..n).map(|_| f()).sum::<f64>() / f64::from(n);
        assert!((mean(&mut || random.unit()) - 0.5).abs() < 0.01);
        assert!(mean(&mut || random.normal()).abs() < 0.02);
        assert!((mean(&mut || random.normal().powi(2)) - 1.0).abs() < 0.03);
        assert!((0..1000).all(|_| random.below(7) < 7));
        assert_eq!(random.below(0), 0);
        assert_eq!(random.bytes(13).len(), 13);
    }

    #[test]
    fn purposes_have_numbers_of_their_own() {
        assert_ne!(Random::of(1, "link").next_u64(), Random::of(1, "guest").next_u64());
        assert_eq!(Random::of(1, "link").next_u64(), Random::of(1, "link").next_u64());
    }
}
