//! Mutations of valid input, drawn from a seed. A coverage-guided fuzzer finds more, but a test can run
//! this.

use seeded::Random;

/// A number below `n`, which is not 0. It is a remainder, so that the seeds that have found something stay
/// what they were.
pub fn below(random: &mut Random, n: u64) -> u64 {
    random.next_u64() % n
}

/// A number that looks random but depends only on the bytes (FNV-1a over words of 8 bytes).
pub fn hash(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(8).map(|word| word.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)));
    words.fold(0xcbf2_9ce4_8422_2325, |hash, word| (hash ^ word).wrapping_mul(0x100_0000_01b3))
}

/// Changes some bytes and words, mostly those that are not zero, and sometimes cuts the input off or
/// repeats a part.
pub fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + below(random, 4) {
        if bytes.is_empty() {
            return;
        }
        let at = place(bytes, random);
        match below(random, 12) {
            0 | 1 => bytes[at] ^= 1 << below(random, 8),
            2 => bytes[at] = random.next_u64() as u8,
            3 if below(random, 4) == 0 => bytes.truncate(at),
            3 => {
                let from = place(bytes, random);
                let len = (1usize << below(random, 13)).min(bytes.len() - at.max(from));
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
    if below(random, 2) == 0 {
        return below(random, bytes.len().min(128) as u64) as usize;
    }
    let start = below(random, bytes.len() as u64) as usize;
    let table = bytes[start..].iter().take(64 << 10).position(|byte| *byte != 0);
    start + table.unwrap_or(0)
}

/// Replaces a word by a plausible offset or count, an extreme value, or a random one, in either byte
/// order.
fn word<const N: usize>(bytes: &mut [u8], at: usize, random: &mut Random) {
    let at = at - at % N;
    let Some(word) = bytes.get_mut(at..at + N) else { return };
    let old = word.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    let value = match below(random, 10) {
        0 => 0,
        1 => u64::MAX >> below(random, 64),
        2 => 1 << below(random, 64),
        3 | 4 => below(random, 80) * 512,
        5 | 6 => below(random, 10) << 16,
        7 => old ^ 1 << below(random, 64),
        8 => 1 << 63 | below(random, 80) << (9 + below(random, 8)),
        _ => random.next_u64(),
    };
    let value = if below(random, 3) == 0 { value.to_le_bytes() } else { value.to_be_bytes() };
    let value = if below(random, 3) == 0 { &value[..N] } else { &value[8 - N..] };
    word.copy_from_slice(value);
}
