//! The description of a workload.

use thiserror::Error;

/// The way in which requests arrive.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Arrival {
    /// Closed: this many clients, each of which sends its next request when its last one has ended.
    Closed {
        /// Number of clients.
        depth: u32,
    },
    /// Open: this many requests a second, whatever happens to earlier ones.
    Open {
        /// Requests a second.
        rate: f64,
        /// True: the times between them are exponentially distributed (a Poisson process). False: all the
        /// same.
        poisson: bool,
    },
}

/// The offsets of requests, within the working set.
#[derive(Clone, PartialEq, Debug)]
pub enum Offsets {
    /// Any offset with the same probability.
    Uniform,
    /// Few offsets are popular; the popular ones lie anywhere.
    Zipf(f64),
    /// A share of the requests goes to a share of the working set.
    Hotspot {
        /// The share of requests, 0 to 1.
        requests: f64,
        /// The share of the working set, 0 to 1.
        space: f64,
    },
    /// One after the other, and again from the start.
    Sequential,
    /// Every so many bytes, and again from the start, moved by one request.
    Strided(u64),
    /// One kind after the other, each for a number of requests, and again from the first.
    Phases(Vec<(u64, Offsets)>),
}

/// A workload.
#[derive(Clone, PartialEq, Debug)]
pub struct Spec {
    /// The way in which requests arrive.
    pub arrival: Arrival,
    /// The offsets of reads and writes.
    pub offsets: Offsets,
    /// Lengths in bytes, each with its weight.
    pub sizes: Vec<(u64, f64)>,
    /// The share of reads among reads and writes, 0 to 1.
    pub read: f64,
    /// Bytes of the disk that requests go to; the whole disk if `None`.
    pub working_set: Option<u64>,
    /// A flush after this many writes; 0 for none.
    pub flush_writes: u32,
    /// A flush this often, in nanoseconds; 0 for none. Only with open arrivals.
    pub flush_every: u64,
    /// The share of trims among all requests that are not flushes, 0 to 1.
    pub trim: f64,
    /// The factor between the busy half and the mean of a time that alternates between busy and quiet halves:
    /// 1 for a steady load, at most 2. Only with open arrivals.
    pub burst: f64,
    /// The length of a busy and a quiet half together, in nanoseconds.
    pub burst_period: u64,
}

/// An impossible value of a workload.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{key}: {text}")]
pub struct Invalid {
    /// The key of the value, as experiments write it.
    pub key: &'static str,
    /// The reason, and what to give.
    pub text: String,
}

/// Names of the presets.
pub const PRESETS: [&str; 7] = ["random", "zipf", "oltp", "seqlog", "db", "boot", "idle"];

impl Default for Spec {
    fn default() -> Self {
        Spec {
            arrival: Arrival::Closed { depth: 8 },
            offsets: Offsets::Uniform,
            sizes: vec![(4096, 1.0)],
            read: 0.5,
            working_set: None,
            flush_writes: 0,
            flush_every: 0,
            trim: 0.0,
            burst: 1.0,
            burst_period: 1_000_000_000,
        }
    }
}

impl Spec {
    /// Returns the preset of this name; [`PRESETS`] lists them.
    pub fn preset(name: &str) -> Option<Spec> {
        let open = |rate| Arrival::Open { rate, poisson: true };
        let base = Spec::default();
        Some(match name {
            "random" => base,
            "zipf" => Spec { offsets: Offsets::Zipf(0.9), ..base },
            // Short transactions: small random requests, each commit durable.
            "oltp" => Spec {
                arrival: open(2000.0),
                offsets: Offsets::Zipf(0.9),
                sizes: vec![(8192, 1.0)],
                read: 0.7,
                flush_every: 10_000_000,
                ..base
            },
            // A log: appends, each durable.
            "seqlog" => Spec {
                arrival: open(500.0),
                offsets: Offsets::Sequential,
                sizes: vec![(16384, 1.0)],
                read: 0.0,
                flush_writes: 1,
                ..base
            },
            // A log and, in bursts, checkpoints of random pages.
            "db" => Spec {
                arrival: open(1500.0),
                offsets: Offsets::Phases(vec![(12_000, Offsets::Sequential), (3_000, Offsets::Zipf(0.8))]),
                sizes: vec![(8192, 0.8), (65536, 0.2)],
                read: 0.2,
                flush_writes: 8,
                burst: 1.6,
                burst_period: 10_000_000_000,
                ..base
            },
            // A system that starts: it reads, from few places, in runs.
            "boot" => Spec {
                arrival: Arrival::Closed { depth: 4 },
                offsets: Offsets::Hotspot { requests: 0.9, space: 0.05 },
                sizes: vec![(4096, 0.5), (32768, 0.3), (131072, 0.2)],
                read: 0.97,
                ..base
            },
            // Hardly anything: a journal's heartbeat.
            "idle" => Spec { arrival: open(5.0), read: 0.2, flush_writes: 4, ..base },
            _ => return None,
        })
    }

    /// Returns the mean length of a read or write in bytes.
    pub fn mean_size(&self) -> f64 {
        let total: f64 = self.sizes.iter().map(|(_, weight)| weight).sum();
        self.sizes.iter().map(|(size, weight)| *size as f64 * weight).sum::<f64>() / total
    }

    /// Checks that the workload is possible on a disk of this many bytes.
    ///
    /// # Errors
    /// The first impossible value.
    pub fn check(&self, disk: u64) -> Result<(), Invalid> {
        let invalid = |key, text: &str| Err(Invalid { key, text: text.to_owned() });
        match self.arrival {
            Arrival::Closed { depth } if depth == 0 || depth > 65536 => {
                return invalid("depth", "give 1 to 65536 clients");
            }
            Arrival::Open { rate, .. } if !(rate > 0.0 && rate <= 1e9) => {
                return invalid("rate", "give more than 0 and at most 1e9 requests a second");
            }
            Arrival::Closed { .. } if self.flush_every != 0 => {
                return invalid("flush-every", "needs a rate; with a depth, give flush-writes");
            }
            Arrival::Closed { .. } if self.burst != 1.0 => return invalid("burst", "needs a rate"),
            _ => {}
        }
        for (key, share) in [("read", self.read), ("trim", self.trim)] {
            if !(0.0..=1.0).contains(&share) {
                return invalid(key, "give a share from 0 to 1");
            }
        }
        if !(1.0..=2.0).contains(&self.burst) || self.burst_period == 0 {
            return invalid("burst", "give a factor from 1 to 2, and a period above 0");
        }
        let working_set = self.working_set.unwrap_or(disk);
        if working_set == 0 || working_set > disk {
            return invalid("working-set", "give more than 0 and at most the disk's size");
        }
        if self.sizes.is_empty() {
            return invalid("sizes", "give at least one size");
        }
        for (size, weight) in &self.sizes {
            if size % 512 != 0 || *size == 0 || *size > working_set || !(*weight > 0.0 && weight.is_finite())
            {
                let text = "give multiples of 512 up to the working set, each with a weight above 0";
                return invalid("sizes", text);
            }
        }
        self.offsets.check()
    }
}

impl Offsets {
    fn check(&self) -> Result<(), Invalid> {
        let invalid = |key, text: &str| Err(Invalid { key, text: text.to_owned() });
        match self {
            Offsets::Uniform | Offsets::Sequential => Ok(()),
            Offsets::Zipf(theta) if !(0.0..=5.0).contains(theta) => invalid("zipf", "give 0 to 5"),
            Offsets::Zipf(_) => Ok(()),
            Offsets::Hotspot { requests, space } => {
                if !((0.0..=1.0).contains(requests) && *space > 0.0 && *space <= 1.0) {
                    return invalid(
                        "hotspot",
                        "give two shares: of requests, 0 to 1, and of space, above 0 to 1",
                    );
                }
                Ok(())
            }
            Offsets::Strided(stride) if stride % 512 != 0 || *stride == 0 => {
                invalid("stride", "give a multiple of 512")
            }
            Offsets::Strided(_) => Ok(()),
            Offsets::Phases(phases) => {
                if phases.is_empty() || phases.iter().any(|(count, _)| *count == 0) {
                    return invalid("phases", "give at least one phase, each with a request or more");
                }
                phases.iter().try_for_each(|(_, offsets)| match offsets {
                    Offsets::Phases(_) => invalid("phases", "a phase cannot have phases"),
                    offsets => offsets.check(),
                })
            }
        }
    }
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
