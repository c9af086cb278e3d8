//! Ranks of which few are popular: rank `k` of `n` is drawn with a probability in proportion to `1 /
//! k^theta`.
//!
//! Rejection-inversion (Hörmann and Derflinger, "Rejection-inversion to generate variates from monotone
//! discrete distributions", ACM TOMACS 6(3), 1996): no table, the same time for any `n`, and exact.

use crate::Random;
use crate::math::{exp, ln, pow};

/// A sampler of ranks.
#[derive(Clone, Debug)]
pub struct Zipf {
    n: u64,
    theta: f64,
    /// The integral of the density up to 1.5, less the first rank's own probability.
    low: f64,
    /// The integral up to `n` + 0.5.
    high: f64,
    /// A draw that is less than this far below its rank is accepted without another look.
    squeeze: f64,
}

impl Zipf {
    /// Creates a sampler of ranks from 0 to `n - 1`. `n` must be at least 1 and `theta` at least 0; with 0,
    /// all ranks have the same probability.
    pub fn new(n: u64, theta: f64) -> Self {
        let n = n.max(1);
        let theta = theta.max(0.0);
        let mut zipf = Zipf { n, theta, low: 0.0, high: 0.0, squeeze: 0.0 };
        zipf.low = zipf.integral(1.5) - 1.0;
        zipf.high = zipf.integral(n as f64 + 0.5);
        zipf.squeeze = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.density(2.0));
        zipf
    }

    /// Returns the density's integral from 1 to `x`, up to a constant.
    fn integral(&self, x: f64) -> f64 {
        let exponent = 1.0 - self.theta;
        if exponent.abs() < 1e-9 { ln(x) } else { (pow(x, exponent) - 1.0) / exponent }
    }

    fn inverse(&self, y: f64) -> f64 {
        let exponent = 1.0 - self.theta;
        if exponent.abs() < 1e-9 { exp(y) } else { pow((1.0 + y * exponent).max(0.0), 1.0 / exponent) }
    }

    fn density(&self, x: f64) -> f64 {
        pow(x, -self.theta)
    }

    /// Draws a rank.
    pub fn sample(&self, random: &mut Random) -> u64 {
        loop {
            let u = self.high + random.unit() * (self.low - self.high);
            let x = self.inverse(u);
            let k = (x + 0.5).trunc().clamp(1.0, self.n as f64);
            if k - x <= self.squeeze || u >= self.integral(k + 0.5) - self.density(k) {
                return k as u64 - 1;
            }
        }
    }

    /// Returns the share of all draws that fall on the most popular ranks, up to `ranks`; ranks may be a
    /// fraction. It approximates the sum by the integral beyond the first 64 ranks.
    pub fn share(&self, ranks: f64) -> f64 {
        (self.sum(ranks) / self.sum(self.n as f64)).min(1.0)
    }

    fn sum(&self, ranks: f64) -> f64 {
        const EXACT: f64 = 64.0;
        let whole = ranks.min(EXACT).trunc();
        let mut sum = 0.0;
        let mut k = 1.0;
        while k <= whole {
            sum += self.density(k);
            k += 1.0;
        }
        if ranks < EXACT {
            return sum + (ranks - whole) * self.density(whole + 1.0);
        }
        sum + self.integral(ranks + 0.5) - self.integral(EXACT + 0.5)
    }
}

#[cfg(test)]
#[path = "zipf_tests.rs"]
mod tests;
