//! The probability of paired differences by chance alone.

use workload::Random;

/// Up to this many pairs, all assignments of signs are tried; above, [`SAMPLES`] random ones.
const EXACT: usize = 14;
/// The number of random assignments.
const SAMPLES: u32 = 20_000;

/// Returns the two-sided p-value of paired differences: the share of all assignments of signs to them whose
/// sum is at least as far from 0 as the one that was seen (Fisher's permutation test). If the two sides do
/// not differ, each difference could as well have had the other sign.
///
/// Differences of 0 say nothing and count as such. Without differences the result is 1. A difference that is
/// not finite (one side never ended) counts as larger than all finite ones together; NaN (neither ended)
/// counts as 0.
pub fn p_value(differences: &[f64]) -> f64 {
    let mut sizes = finite(differences);
    sizes.retain(|&size| size != 0.0);
    if sizes.is_empty() {
        return 1.0;
    }
    // Sums that are equal on paper may differ in the last digits.
    let slack = sizes.iter().map(|size| size.abs()).sum::<f64>() * 1e-12;
    let seen = sizes.iter().sum::<f64>().abs() - slack;
    if sizes.iter().all(|&size| size > 0.0) || sizes.iter().all(|&size| size < 0.0) {
        return smallest(sizes.len());
    }
    if sizes.len() <= EXACT {
        let all = 1_u32 << sizes.len();
        let extreme = (0..all).filter(|&signs| signed(&sizes, u64::from(signs)).abs() >= seen).count();
        return extreme as f64 / f64::from(all);
    }
    let mut random = Random::of(0x6d69_6c6c_7261_6365, "permutation");
    let extreme = (0..SAMPLES)
        .filter(|_| {
            let sum: f64 = sizes.chunks(64).map(|part| signed(part, random.next_u64())).sum();
            sum.abs() >= seen
        })
        .count();
    // The assignment that was seen is one of all, so the value is never 0.
    (extreme as f64 + 1.0) / (f64::from(SAMPLES) + 1.0)
}

/// Returns the smallest p-value that this many pairs can have: that of differences that all have one sign.
pub fn smallest(pairs: usize) -> f64 {
    if pairs == 0 { 1.0 } else { 0.5_f64.powi(i32::try_from(pairs - 1).unwrap_or(i32::MAX)) }
}

fn signed(sizes: &[f64], signs: u64) -> f64 {
    sizes.iter().enumerate().map(|(i, size)| if signs >> i & 1 == 0 { *size } else { -size }).sum()
}

/// The differences with infinite ones replaced by one that outweighs all finite ones.
fn finite(differences: &[f64]) -> Vec<f64> {
    let sum: f64 = differences.iter().filter(|d| d.is_finite()).map(|d| d.abs()).sum();
    let large = if sum > 0.0 { 2.0 * sum } else { 1.0 };
    differences
        .iter()
        .map(|&difference| match difference {
            d if d.is_nan() => 0.0,
            d if d.is_infinite() => large.copysign(d),
            d => d,
        })
        .collect()
}

#[cfg(test)]
#[path = "permutation_tests.rs"]
mod tests;
