//! Mutations of valid input, drawn from a seed. A coverage-guided fuzzer finds more, but a test can run
//! this.

/// SplitMix64: small, seeded, and it never changes.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.number() % n
    }
}

/// A number that looks random but depends only on the bytes (FNV-1a over words of 8 bytes).
pub fn hash(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(8).map(|word| word.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)));
    words.fold(0xcbf2_9ce4_8422_2325, |hash, word| (hash ^ word).wrapping_mul(0x100_0000_01b3))
}

/// Changes some bytes and words, mostly those that are not zero, and sometimes cuts the input off or
/// repeats a part.
pub fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = place(bytes, random);
        match random.below(12) {
            0 | 1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = random.number() as u8,
            3 if random.below(4) == 0 => bytes.truncate(at),
            3 => {
                let from = place(bytes, random);
                let len = (1usize << random.below(13)).min(bytes.len() - at.max(from));
                bytes.copy_within(from..from + len, at);
            }
            4..=6 => word::<4>(bytes, at, random),
            _ => word::<8>(bytes, at, random),
        }
    }
}

/// A position to change: half of them in the first bytes, where headers are, the rest mostly at bytes
/// that are not zero.
fn place(bytes: &[u8], random: &mut Random) -> usize {
    if random.below(2) == 0 {
        return random.below(bytes.len().min(128) as u64) as usize;
    }
    let start = random.below(bytes.len() as u64) as usize;
    let table = bytes[start..].iter().take(64 << 10).position(|byte| *byte != 0);
    start + table.unwrap_or(0)
}

/// Replaces a word by a plausible offset or count, an extreme value, or a random one, in either byte
/// order.
fn word<const N: usize>(bytes: &mut [u8], at: usize, random: &mut Random) {
    let at = at - at % N;
    let Some(word) = bytes.get_mut(at..at + N) else { return };
    let old = word.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    let value = match random.below(10) {
        0 => 0,
        1 => u64::MAX >> random.below(64),
        2 => 1 << random.below(64),
        3 | 4 => random.below(80) * 512,
        5 | 6 => random.below(10) << 16,
        7 => old ^ 1 << random.below(64),
        8 => 1 << 63 | random.below(80) << (9 + random.below(8)),
        _ => random.number(),
    };
    let value = if random.below(3) == 0 { value.to_le_bytes() } else { value.to_be_bytes() };
    let value = if random.below(3) == 0 { &value[..N] } else { &value[8 - N..] };
    word.copy_from_slice(value);
}
