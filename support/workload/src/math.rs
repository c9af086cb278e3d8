//! Logarithm, exponential function and power from additions and multiplications alone.
//!
//! IEEE 754 fixes the result of those to the last bit, and leaves that of `ln` and `exp` to the library of
//! the machine. A seed must give the same run everywhere, so these are our own. Their relative error is below
//! 1e-13 in the range that workloads and models use.

use std::f64::consts::{LN_2, SQRT_2};

use crate::Random;

/// Returns the natural logarithm of `x`; minus infinity for 0, and NaN for negative numbers.
pub fn ln(x: f64) -> f64 {
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x < 0.0 || !x.is_finite() {
        return if x > 0.0 { x } else { f64::NAN };
    }
    if x < f64::MIN_POSITIVE {
        // Below the normal numbers.
        return ln(x * 18_014_398_509_481_984.0) - 54.0 * LN_2;
    }
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if mantissa > SQRT_2 {
        mantissa /= 2.0;
        exponent += 1;
    }
    // ln m = 2 artanh((m - 1) / (m + 1)), and |z| < 0.172.
    let z = (mantissa - 1.0) / (mantissa + 1.0);
    let square = z * z;
    let (mut power, mut sum, mut n) = (z, 0.0, 1.0);
    while n < 24.0 {
        sum += power / n;
        power *= square;
        n += 2.0;
    }
    exponent as f64 * LN_2 + 2.0 * sum
}

/// 1 / n! from n = 0 on.
const INVERSE_FACTORIALS: [f64; 15] = {
    let mut list = [1.0; 15];
    let mut n = 1;
    while n < list.len() {
        list[n] = list[n - 1] / n as f64;
        n += 1;
    }
    list
};

/// Returns e to the power of `x`; 0 below -700, infinity above 709.
pub fn exp(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x < -700.0 {
        return 0.0;
    }
    if x > 709.0 {
        return f64::INFINITY;
    }
    let n = (x / LN_2 + if x < 0.0 { -0.5 } else { 0.5 }).trunc();
    let rest = x - n * LN_2;
    // Taylor's series by Horner's scheme; the rest is at most 0.35.
    let sum = INVERSE_FACTORIALS.iter().rev().fold(0.0, |sum, factor| sum * rest + factor);
    sum * f64::from_bits(((n as i64 + 1023) as u64) << 52)
}

/// Returns `x` to the power of `y`, for `x` of at least 0.
pub fn pow(x: f64, y: f64) -> f64 {
    if y == 0.0 {
        1.0
    } else if x == 0.0 {
        if y > 0.0 { 0.0 } else { f64::INFINITY }
    } else {
        exp(y * ln(x))
    }
}

/// Returns 1 - e^-x without loss of digits near 0: the share of a set that is hit if it is hit `x` times for
/// each element, at random.
pub fn hit(x: f64) -> f64 {
    if x < 1e-2 {
        x * (1.0 - x * (0.5 - x * (1.0 / 6.0 - x * (1.0 / 24.0 - x * (1.0 / 120.0 - x / 720.0)))))
    } else {
        1.0 - exp(-x)
    }
}

/// Returns an exponentially distributed number with mean 1.
pub fn exponential(random: &mut Random) -> f64 {
    -ln(1.0 - random.unit())
}

#[cfg(test)]
#[path = "math_tests.rs"]
mod tests;
