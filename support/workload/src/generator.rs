//! The requests of a workload.

use crate::math::exponential;
use crate::spec::{Arrival, Invalid, Offsets, Spec};
use crate::{Kind, Op, Random, Zipf};

/// The requests of a workload, without an end. They follow from the description, the disk's size and the
/// seed.
#[derive(Clone, Debug)]
pub struct Requests {
    spec: Spec,
    space: u64,
    random: Random,
    places: Vec<Places>,
    /// The phase, and the number of its requests that are left.
    phase: (usize, u64),
    /// Nanoseconds of the last arrival.
    now: f64,
    writes: u32,
    next_flush: u64,
    /// The request that comes after a flush which was due before it.
    waiting: Option<Op>,
}

/// The state of one kind of offsets.
#[derive(Clone, Debug)]
struct Places {
    offsets: Offsets,
    requests: u64,
    zipf: Option<Zipf>,
    at: u64,
}

/// Popular ranks are spread over the working set in units of this many bytes.
const UNIT: u64 = 4096;

impl Requests {
    /// Creates the requests of `spec` on a disk of `disk` bytes.
    ///
    /// # Errors
    /// See [`Spec::check`].
    pub fn new(spec: &Spec, disk: u64, seed: u64) -> Result<Self, Invalid> {
        spec.check(disk)?;
        let space = spec.working_set.unwrap_or(disk);
        let places = |requests: u64, offsets: &Offsets| Places {
            offsets: offsets.clone(),
            requests,
            zipf: match offsets {
                Offsets::Zipf(theta) => Some(Zipf::new(space.div_ceil(UNIT), *theta)),
                _ => None,
            },
            at: 0,
        };
        let places: Vec<Places> = match &spec.offsets {
            Offsets::Phases(phases) => {
                phases.iter().map(|(count, offsets)| places(*count, offsets)).collect()
            }
            offsets => vec![places(u64::MAX, offsets)],
        };
        let phase = (0, places[0].requests);
        Ok(Requests {
            spec: spec.clone(),
            space,
            random: Random::of(seed, "requests"),
            places,
            phase,
            now: 0.0,
            writes: 0,
            next_flush: spec.flush_every,
            waiting: None,
        })
    }

    /// Advances the clock to the next arrival.
    fn arrive(&mut self) -> u64 {
        let Arrival::Open { rate, poisson } = self.spec.arrival else { return 0 };
        let gap = if poisson { exponential(&mut self.random) } else { 1.0 };
        let burst = self.spec.burst;
        // The time to the next request at the mean rate. In a busy half it goes by quicker, and in a quiet
        // one slower, or not at all.
        let mut left = gap * 1e9 / rate;
        if burst == 1.0 {
            self.now += left;
            return self.now as u64;
        }
        let period = self.spec.burst_period as f64;
        let whole = (left / period).floor();
        self.now += whole * period;
        left -= whole * period;
        // What is left is less than a period, so it ends in the third half from here at the latest.
        for _ in 0..3 {
            let within = self.now % period;
            let busy = within < period / 2.0;
            let (factor, end) = if busy { (burst, period / 2.0) } else { (2.0 - burst, period) };
            let half = end - within;
            if left < half * factor {
                self.now += left / factor;
                break;
            }
            left -= half * factor;
            self.now += half;
        }
        self.now as u64
    }

    fn size(&mut self) -> u64 {
        let total: f64 = self.spec.sizes.iter().map(|(_, weight)| weight).sum();
        let mut left = self.random.unit() * total;
        for (size, weight) in &self.spec.sizes {
            left -= weight;
            if left < 0.0 {
                return *size;
            }
        }
        self.spec.sizes[0].0
    }

    fn offset(&mut self, len: u64) -> u64 {
        if self.phase.1 == 0 {
            let next = (self.phase.0 + 1) % self.places.len();
            self.phase = (next, self.places[next].requests);
        }
        self.phase.1 -= 1;
        let slots = (self.space / len).max(1);
        let (space, random) = (self.space, &mut self.random);
        let places = &mut self.places[self.phase.0];
        match &places.offsets {
            Offsets::Uniform | Offsets::Phases(_) => random.below(slots) * len,
            Offsets::Hotspot { requests, space } => {
                let hot = ((slots as f64 * space) as u64).clamp(1, slots);
                if random.unit() < *requests || hot == slots {
                    random.below(hot) * len
                } else {
                    (hot + random.below(slots - hot)) * len
                }
            }
            Offsets::Zipf(_) => {
                let rank = places.zipf.as_ref().map_or(0, |zipf| zipf.sample(random));
                // A rank's place is anywhere, and always the same: a multiplication by a number that shares
                // no factor with the number of units permutes them.
                let units = space.div_ceil(UNIT);
                let mut factor = (units as f64 * 0.618_033_988_749_895) as u64 | 1;
                while gcd(factor, units) != 1 {
                    factor += 2;
                }
                let place = (u128::from(rank) * u128::from(factor) % u128::from(units)) as u64 * UNIT;
                (place / len).min(slots - 1) * len
            }
            Offsets::Sequential => {
                if places.at + len > space {
                    places.at = 0;
                }
                let at = places.at;
                places.at += len;
                at
            }
            Offsets::Strided(stride) => {
                if places.at + len > space {
                    // The next lap is moved by one request.
                    places.at = (places.at % stride + len) % (*stride).min(space - len + 1).max(1);
                    places.at -= places.at % 512;
                }
                let at = places.at.min(space - len);
                places.at += stride;
                at
            }
        }
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Iterator for Requests {
    type Item = Op;

    fn next(&mut self) -> Option<Op> {
        if let Some(op) = self.waiting.take() {
            return Some(op);
        }
        if self.spec.flush_writes > 0 && self.writes >= self.spec.flush_writes {
            self.writes = 0;
            return Some(Op { at: self.now as u64, kind: Kind::Flush, offset: 0, len: 0 });
        }
        let at = self.arrive();
        let len = self.size();
        let kind = if self.random.unit() < self.spec.trim {
            Kind::Trim
        } else if self.random.unit() < self.spec.read {
            Kind::Read
        } else {
            self.writes += 1;
            Kind::Write
        };
        let offset = self.offset(len);
        let op = Op { at, kind, offset, len };
        if self.spec.flush_every > 0 && at >= self.next_flush {
            let due = at - at % self.spec.flush_every;
            self.next_flush = due + self.spec.flush_every;
            self.waiting = Some(op);
            return Some(Op { at: due, kind: Kind::Flush, offset: 0, len: 0 });
        }
        Some(op)
    }
}

#[cfg(test)]
#[path = "generator_tests.rs"]
mod tests;
