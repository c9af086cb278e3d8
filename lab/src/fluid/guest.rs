//! The guest's requests in the model: how many end in a step, and how long they take.

use std::collections::VecDeque;

use workload::math::{exp, ln};
use workload::{Arrival, Random, Spec};

use crate::experiment::{Device, Link};
use crate::policy::Tee;

/// The share of link and target that the copier has in any case, so that it always arrives.
pub const RESERVE: f64 = 0.1;
/// Bytes of one copy: a request of the guest may wait behind one.
const CHUNK: f64 = 256.0 * 1024.0;
/// Exponential waits that stand for the distribution, and their weights: quantiles up to 99.95 %.
const WAITS: [(f64, f64); 9] = [
    (0.105, 0.2),
    (0.357, 0.2),
    (0.693, 0.2),
    (1.204, 0.2),
    (1.897, 0.1),
    (2.590, 0.05),
    (3.507, 0.04),
    (5.203, 0.009),
    (7.601, 0.001),
];

/// The surroundings of a step of the guest.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The device of its disk.
    pub device: &'a Device,
    /// The device of the other side.
    pub other: &'a Device,
    /// The link, with its rate at this time: 0 while it is cut.
    pub link: Link,
    /// The way of its writes.
    pub tee: Tee,
    /// The share of its writes that goes to both sides.
    pub mirrored: f64,
    /// Bytes that the window of [`Tee::Behind`] has room for.
    pub room: f64,
    /// The share of its requests that needs data of the other side.
    pub faulting: f64,
    /// Bytes that such a request fetches.
    pub fetched: f64,
    /// The share of the device's time that the copier uses.
    pub copier: f64,
    /// The share of its writes that is withheld.
    pub throttle: f64,
    /// Seconds for which a request over the link waits for the copies that were sent before it.
    pub behind: f64,
    /// True while it is stopped.
    pub stopped: bool,
}

/// Points of the curve of arrivals that are kept; of more, every second one is dropped.
const MOST_POINTS: usize = 512;
/// Parts of what ends in a step, if the first and the last of it have waited for different times.
const PARTS: u32 = 8;

/// The times in which nothing ends beside requests that wait for the link. The ends of the others lie
/// anywhere, so the longest of `n` gaps between them is about `ln n + 0.577` times their mean: the
/// expectation of the largest of `n` exponential values, with Euler's constant. No gap is longer than such a
/// wait.
#[derive(Clone, Copy, Debug, Default)]
struct Gaps {
    /// Seconds in which at least one request waits for the link, and the others that end in them.
    seconds: f64,
    others: f64,
    /// The sum over those seconds of the time for which such a request waits.
    waits: f64,
}

impl Gaps {
    fn longest(&self) -> f64 {
        if self.others < 1.0 {
            return 0.0;
        }
        let mean = self.seconds / self.others;
        (mean * (ln(self.others) + 0.577)).min(self.waits / self.seconds)
    }
}

/// A step of the guest.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Requests that arrived; `None` in a closed loop.
    pub arrived: Option<f64>,
    /// Requests that ended.
    pub ended: f64,
    /// Writes among them.
    pub writes: f64,
    /// Latencies in seconds, with the number of requests of each.
    pub latencies: Vec<(f64, f64)>,
    /// The latency of a fault.
    pub fault_latency: f64,
}

impl Step {
    /// The latencies of this many reads and writes that ended first, and of the flushes between them.
    pub fn first(&self, requests: f64) -> Vec<(f64, f64)> {
        let total: f64 = self.latencies.iter().map(|(_, weight)| weight).sum();
        let mut left = total * (requests / self.ended.max(1e-9)).min(1.0);
        let first = self.latencies.iter().map_while(|(seconds, weight)| {
            let taken = weight.min(left);
            left -= taken;
            (taken > 0.0).then_some((*seconds, taken))
        });
        first.collect()
    }
}

/// The guest.
#[derive(Clone, Debug)]
pub struct Guest {
    spec: Spec,
    len: f64,
    random: Random,
    /// Requests that wait because they came quicker than they end.
    queue: f64,
    /// The sum of all arrivals at instants, as far back as some of them wait.
    curve: VecDeque<(f64, f64)>,
    /// Clients of a closed loop whose requests waited for the end of a stall, and for how long.
    late: (f64, f64),
    /// Arrivals by which the last steps had too many; 0 or less.
    lacking: f64,
    /// Mean seconds of a request in the last step, for clients that wait for their own.
    last: f64,
    /// Seconds for which nothing has ended though something waits.
    pub stalled: f64,
    gaps: Gaps,
}

impl Guest {
    /// Creates a guest.
    pub fn new(spec: &Spec, seed: u64) -> Self {
        let random = Random::of(seed, "guest");
        let len = spec.mean_size();
        Guest {
            spec: spec.clone(),
            len,
            random,
            queue: 0.0,
            curve: VecDeque::new(),
            late: (0.0, 0.0),
            lacking: 0.0,
            last: 0.0,
            stalled: 0.0,
            gaps: Gaps::default(),
        }
    }

    /// Requests that wait now: those in the queue, or after a stop the one of each client.
    pub fn waiting(&self) -> f64 {
        match self.spec.arrival {
            Arrival::Closed { depth } if self.stalled > 0.0 => f64::from(depth),
            Arrival::Closed { .. } => 0.0,
            Arrival::Open { .. } => self.queue,
        }
    }

    /// The longest time, of all until now, in which nothing ended beside a request that waited for the link.
    pub fn longest_gap(&self) -> f64 {
        self.gaps.longest()
    }

    /// The longest time that a request which was sent to the device takes.
    pub fn slowest(&self, place: &Place<'_>) -> f64 {
        let services = self.services(place);
        services.iter().filter(|(share, _)| *share > 0.0).map(|(_, seconds)| *seconds).fold(0.0, f64::max)
    }

    /// Notes the gaps of a step in which this many requests a second end.
    fn note_gaps(&mut self, place: &Place<'_>, rate: f64, seconds: f64) {
        let mirrored = if matches!(place.tee, Tee::Behind(_)) { 0.0 } else { place.mirrored };
        let share = (1.0 - self.spec.read) * mirrored + place.faulting;
        let wait = if place.faulting > 0.0 { self.fetch(place) } else { self.far(place) };
        let some = seconds * (1.0 - exp(-(rate * share * wait).min(50.0)));
        self.gaps.seconds += some;
        self.gaps.others += some * rate * (1.0 - share + self.flushes()).max(0.0);
        self.gaps.waits += some * wait;
    }

    /// The mean length of a request.
    pub fn len(&self) -> f64 {
        self.len
    }

    /// Requests that arrive in a step.
    fn arrivals(&mut self, now: f64, seconds: f64) -> f64 {
        let Arrival::Open { rate, poisson } = self.spec.arrival else { return 0.0 };
        let period = self.spec.burst_period as f64 / 1e9;
        let busy = now - (now / period).trunc() * period < period / 2.0;
        let factor = if busy { self.spec.burst } else { 2.0 - self.spec.burst };
        let mean = rate * factor * seconds;
        let noise = if poisson { self.random.normal() * mean.sqrt() } else { 0.0 };
        // Fewer requests than none cannot arrive: what is below goes into the next step, so the mean stays.
        let wanted = mean + noise + self.lacking;
        self.lacking = wanted.min(0.0);
        wanted.max(0.0)
    }

    /// Runs the guest for a time.
    pub fn step(&mut self, now: f64, seconds: f64, place: &Place<'_>) -> Step {
        let depth = match self.spec.arrival {
            Arrival::Closed { depth } => Some(f64::from(depth)),
            Arrival::Open { .. } => None,
        };
        let arrived = depth.is_none().then(|| self.arrive(now, seconds));
        if place.stopped {
            if depth.is_some() || self.queue > 0.0 {
                self.stalled += seconds;
            }
            return Step { arrived, ..Step::default() };
        }
        let services = self.services(place);
        let mean_service: f64 = services.iter().map(|(share, seconds)| share * seconds).sum();
        let capacity = self.capacity(place);
        let wanted = match depth {
            Some(depth) => depth / self.last.max(mean_service).max(1e-6) * seconds,
            None => self.queue,
        };
        let ended = wanted.min(capacity * seconds).max(0.0);
        let waiting = if depth.is_some() { 0.0 } else { self.queue - ended };
        if capacity <= 0.0 && (depth.is_some() || waiting > 0.0) {
            self.stalled += seconds;
            return Step { arrived, ..Step::default() };
        }
        self.note_gaps(place, ended / seconds, seconds);
        let stalled = std::mem::take(&mut self.stalled);
        let waits = match depth {
            Some(depth) => self.after_stall(depth, stalled, ended, seconds),
            None => self.waits(now, seconds, ended),
        };
        self.queue = waiting.max(0.0);
        let (kinds, fault_latency) = self.kinds(place, &services, ended, capacity, seconds);
        if let Some(depth) = depth {
            let took: f64 = kinds.iter().map(|(seconds, share)| seconds * share).sum();
            // By Little's law a closed loop is no quicker than its depth over the capacity.
            let took = took.max(depth / capacity.max(1e-9));
            self.last = if self.last == 0.0 { took } else { (self.last + took) / 2.0 };
        }
        let mut latencies = Vec::with_capacity(kinds.len() * waits.len());
        for (waited, requests) in waits.into_iter().filter(|wait| wait.1 > 0.0) {
            latencies.extend(kinds.iter().map(|(seconds, share)| (waited + seconds, requests * share)));
        }
        Step { arrived, ended, writes: ended * (1.0 - self.spec.read), latencies, fault_latency }
    }

    /// Requests arrive in a step. Returns their number.
    fn arrive(&mut self, now: f64, seconds: f64) -> f64 {
        let arrived = self.arrivals(now, seconds);
        self.queue += arrived;
        let sum = self.curve.back().map_or(0.0, |point| point.1);
        if self.curve.is_empty() {
            self.curve.push_back((now, 0.0));
        }
        self.curve.push_back((now + seconds, sum + arrived));
        if self.curve.len() > MOST_POINTS {
            let last = self.curve.len() - 1;
            let mut index = 0;
            self.curve.retain(|_| {
                index += 1;
                index % 2 == 1 || index > last
            });
        }
        arrived
    }

    /// The times for which the requests that end in a step have waited in the queue, each with their number.
    /// They end in the order in which they came, and evenly over the step.
    fn waits(&mut self, now: f64, seconds: f64, ended: f64) -> Vec<(f64, f64)> {
        let sum = self.curve.back().map_or(0.0, |point| point.1);
        let first = sum - self.queue;
        let wait = |share: f64| {
            let number = first + ended * share;
            let next = self.curve.partition_point(|point| point.1 < number).min(self.curve.len() - 1);
            let (to, from) = (self.curve[next], self.curve[next.saturating_sub(1)]);
            let part =
                if to.1 > from.1 { ((number - from.1) / (to.1 - from.1)).clamp(0.0, 1.0) } else { 1.0 };
            (now + seconds * share - (from.0 + (to.0 - from.0) * part)).max(0.0)
        };
        // Not the ends themselves: there, times without any arrival lie between two requests.
        let (begin, end) = (wait(0.001), wait(0.999));
        let waits = if (begin - end).abs() < 0.02 * begin.max(end) + 1e-6 {
            vec![((begin + end) / 2.0, ended)]
        } else {
            let middle = |part: u32| (f64::from(part) + 0.5) / f64::from(PARTS);
            (0..PARTS).map(|part| (wait(middle(part)), ended / f64::from(PARTS))).collect()
        };
        while self.curve.len() > 2 && self.curve[1].1 <= first + ended {
            self.curve.pop_front();
        }
        waits
    }

    /// The same for a closed loop: each of its clients has waited for the end of a stall, and for nothing
    /// else.
    fn after_stall(&mut self, depth: f64, stalled: f64, ended: f64, seconds: f64) -> Vec<(f64, f64)> {
        if stalled > 0.0 {
            let (before, waited) = self.late;
            self.late = (depth, stalled + before * waited / depth);
        }
        let (left, waited) = self.late;
        let late = left.min(ended);
        self.late = (left - late, waited + seconds);
        if late > 0.0 { vec![(waited, late), (0.0, ended - late)] } else { vec![(0.0, ended)] }
    }

    /// The kinds of requests: each with its share of reads and writes, and the seconds of its service without
    /// waiting. Flushes come on top of those; until a mirror is ready they concern one side.
    fn services(&self, place: &Place<'_>) -> [(f64, f64); 4] {
        let (device, link) = (place.device, place.link);
        let read = self.spec.read;
        let read_time = device.read_latency + self.len / device.read_rate;
        let mut write_time = device.write_latency + self.len / device.write_rate;
        if place.tee == Tee::Delta {
            // The first write to a granule of a delta reads and writes the rest of it.
            write_time += device.read_latency * 0.5;
        }
        let far = self.far(place);
        let waits = !matches!(place.tee, Tee::Behind(_)) || place.room <= 0.0;
        let both = if waits && link.rate > 0.0 { write_time.max(far) } else { write_time };
        let mirrored = place.mirrored;
        [
            (read, read_time),
            ((1.0 - read) * (1.0 - mirrored), write_time),
            ((1.0 - read) * mirrored, both),
            (self.flushes(), device.flush),
        ]
    }

    /// Seconds of a write to the other side.
    fn far(&self, place: &Place<'_>) -> f64 {
        let (other, link) = (place.other, place.link);
        2.0 * link.delay
            + place.behind
            + self.len / link.rate.max(1.0)
            + other.write_latency
            + self.len / other.write_rate
    }

    /// Seconds of a read of a granule of the other side.
    fn fetch(&self, place: &Place<'_>) -> f64 {
        let (other, link) = (place.other, place.link);
        2.0 * link.delay
            + place.behind
            + 3.0 * link.jitter
            + other.read_latency
            + place.fetched / link.rate.min(other.read_rate).max(1.0)
    }

    /// Flushes for each read or write. One that is due is sent with the next request, and in a period without
    /// any there is none.
    pub fn flushes(&self) -> f64 {
        match (self.spec.arrival, self.spec.flush_writes) {
            (Arrival::Open { rate, .. }, 0) if self.spec.flush_every > 0 => {
                let due = rate * self.spec.flush_every as f64 / 1e9;
                (1.0 - exp(-due.min(50.0))) / due
            }
            (_, 0) => 0.0,
            (_, writes) => (1.0 - self.spec.read) / f64::from(writes),
        }
    }

    /// Requests a second that can end.
    fn capacity(&self, place: &Place<'_>) -> f64 {
        let (device, other, link) = (place.device, place.other, place.link);
        let read = self.spec.read;
        let bytes = read * self.len / device.read_rate + (1.0 - read) * self.len / device.write_rate;
        let mut capacity = (1.0 - RESERVE) / (1.0 / device.iops).max(bytes);
        let sent = (1.0 - read) * place.mirrored * self.len;
        if sent > 0.0 && place.room <= 0.0 {
            let target = other.write_rate.min(other.iops * self.len);
            capacity = capacity.min((1.0 - RESERVE) * link.rate.min(target) / sent);
        }
        if place.faulting > 0.0 {
            let fetched = place.faulting * place.fetched.max(1.0);
            capacity =
                capacity.min(link.rate.min(other.read_rate) / fetched).min(other.iops / place.faulting);
        }
        if place.throttle > 0.0 && read < 1.0 {
            if let Arrival::Open { rate, .. } = self.spec.arrival {
                capacity = capacity.min(rate * (1.0 - place.throttle * (1.0 - read)));
            } else {
                capacity *= 1.0 - place.throttle * (1.0 - read);
            }
        }
        capacity
    }

    /// The latencies of requests without the time in a queue, each with its share, and the latency of a
    /// fault. Flushes come on top of the shares of reads and writes.
    fn kinds(
        &self,
        place: &Place<'_>,
        services: &[(f64, f64); 4],
        ended: f64,
        capacity: f64,
        seconds: f64,
    ) -> (Vec<(f64, f64)>, f64) {
        let device = place.device;
        let load = (ended / seconds / capacity.max(1e-9)).min(0.95);
        let busy = (load + place.copier).min(0.97);
        let wait = (1.0 / device.iops).max(self.len / device.read_rate) * busy / (1.0 - busy)
            + place.copier * CHUNK.min(device.write_rate / device.iops * 4.0 + 4096.0) / device.write_rate;
        let fetch = self.fetch(place);
        let mut kinds = Vec::with_capacity(5 * WAITS.len());
        for (number, (share, service)) in services.iter().enumerate() {
            // A flush needs no data of the other side.
            let share = if number < 3 { share * (1.0 - place.faulting) } else { *share };
            kinds.extend(WAITS.map(|(times, weight)| (service + times * wait, share * weight)));
        }
        if place.faulting > 0.0 {
            let slow = |times: f64| fetch + times * (wait + fetch * load / 2.0);
            kinds.extend(WAITS.map(|(times, weight)| (slow(times), place.faulting * weight)));
        }
        kinds.retain(|(_, share)| *share > 0.0);
        (kinds, fetch + wait)
    }
}

#[cfg(test)]
#[path = "guest_tests.rs"]
mod tests;
