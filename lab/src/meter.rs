//! The metrics of a run: windows of a second, the series, and totals.

use crate::histogram::Histogram;
use crate::policy::{Latencies, Phase};
use crate::record::{RunRecord, SeriesPoint};

/// The most samples that a run keeps; with more, every second one is dropped.
const MOST_SAMPLES: usize = 240;

/// The cost of a death at an instant, from the least to the worst.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Loss {
    /// Nothing.
    Nothing,
    /// The migration has to start again.
    Restarts,
    /// The guest stands still until the link or the host is back.
    Pauses,
    /// The guest has to start again from a durable disk.
    Reboots,
    /// Data that the guest has flushed are lost.
    Loses,
}

/// A sample of the series.
#[derive(Clone, Debug)]
struct Sample {
    line: SeriesPoint,
    /// For source, target and link.
    losses: [Loss; 3],
    predicted: f64,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Meter {
    window: Histogram,
    window_began: f64,
    /// The longest wait of the last closed window, and the longest since the last sample.
    longest: (f64, f64),
    /// Requests that should have ended by now less those that have; see [`Meter::miss`].
    missed: f64,
    all: Histogram,
    faults: Histogram,
    /// The last whole window.
    pub last: Latencies,
    samples: Vec<Sample>,
    interval: f64,
    next_sample: f64,
    dip: f64,
    pub(crate) record: RunRecord,
}

impl Meter {
    /// Creates a meter. `idle` is what the guest had before.
    pub fn new(idle: Latencies) -> Self {
        let record =
            RunRecord { idle_p99_ms: idle.idle_p99 * 1e3, idle_iops: idle.rate, ..RunRecord::default() };
        Meter {
            window: Histogram::default(),
            window_began: 0.0,
            longest: (idle.p99, 0.0),
            missed: 0.0,
            all: Histogram::default(),
            faults: Histogram::default(),
            last: idle,
            samples: Vec::new(),
            interval: 0.5,
            next_sample: 0.0,
            dip: f64::INFINITY,
            record,
        }
    }

    /// Adds the requests of a step.
    pub fn add(&mut self, latencies: &[(f64, f64)]) {
        for (seconds, weight) in latencies {
            self.window.add(*seconds, *weight);
            if *weight > 0.0 {
                self.longest.1 = self.longest.1.max(*seconds);
            }
            self.all.add(*seconds, *weight);
        }
    }

    /// Adds faults.
    pub fn add_faults(&mut self, seconds: f64, count: f64) {
        self.faults.add(seconds, count);
    }

    /// Counts requests of a step that should have ended less those that ended. The sum has a sign, so that
    /// noise and bursts cancel out.
    pub fn miss(&mut self, requests: f64) {
        self.missed += requests;
    }

    /// Closes the window if it is a second old. `stalled` is the time for which nothing has ended though
    /// something waits.
    pub fn advance(&mut self, now: f64, stalled: f64) {
        if now - self.window_began >= 1.0 - 1e-9 {
            self.close(now, stalled);
            self.dip = self.dip.min(self.last.rate);
        }
    }

    fn close(&mut self, now: f64, stalled: f64) {
        let length = now - self.window_began;
        let idle = self.last.idle_p99;
        // What waits while nothing ends has waited that long already.
        let (p50, p99) = (self.window.quantile(0.5), self.window.quantile(0.99).max(stalled));
        let rate = self.window.total() / length;
        let record = &mut self.record;
        if p99 > 2.0 * idle {
            record.brownout2_s += length;
        }
        if p99 > 10.0 * idle {
            record.brownout10_s += length;
        }
        record.brownout_area_s_ms += (p99 - idle).max(0.0) * 1e3 * length;
        self.last = Latencies { p50, p99, idle_p99: idle, rate };
        self.longest.0 = self.window.most().max(stalled);
        self.window.clear();
        self.window_began = now;
    }

    /// Returns true if a sample is due.
    pub fn is_due(&self, now: f64) -> bool {
        now >= self.next_sample
    }

    /// Adds a sample; `state` has what this meter does not know.
    pub fn sample(&mut self, state: SeriesPoint, losses: [Loss; 3], predicted: f64) {
        let now = state.t_s;
        let line = SeriesPoint {
            iops: self.last.rate,
            p50_ms: self.last.p50 * 1e3,
            p99_ms: self.last.p99 * 1e3,
            max_ms: self.longest.0.max(std::mem::take(&mut self.longest.1)) * 1e3,
            ..state
        };
        self.samples.push(Sample { line, losses, predicted });
        if self.samples.len() >= MOST_SAMPLES {
            // The longest wait of a line that is dropped counts for the next one.
            let (mut index, mut dropped) = (0, 0.0);
            self.samples.retain_mut(|sample| {
                index += 1;
                let keep = index % 2 == 1;
                let most = &mut sample.line.max_ms;
                if keep {
                    *most = most.max(std::mem::take(&mut dropped));
                } else {
                    dropped = *most;
                }
                keep
            });
            self.longest.1 = self.longest.1.max(dropped / 1e3);
            self.interval *= 2.0;
        }
        self.next_sample = now + self.interval;
    }

    /// Ends the run at a time, and returns its record and series. `stalled` is as for [`Meter::advance`].
    pub fn finish(mut self, now: f64, stalled: f64) -> (RunRecord, Vec<SeriesPoint>) {
        if now > self.window_began {
            self.close(now, stalled);
        }
        let record = &mut self.record;
        record.dip_area_ops = self.missed.max(0.0);
        record.total_s = now;
        (record.p50_ms, record.p99_ms) = (self.all.quantile(0.5) * 1e3, self.all.quantile(0.99) * 1e3);
        record.max_ms = (self.all.most() * 1e3).max(record.blackout_ms);
        record.iops = if now > 0.0 { self.all.total() / now } else { 0.0 };
        record.requests = self.all.total() as u64;
        record.dip_iops = if self.dip.is_finite() { self.dip } else { record.iops };
        record.faults = self.faults.total() as u64;
        record.fault_p50_us = self.faults.quantile(0.5) * 1e6;
        record.fault_p99_us = self.faults.quantile(0.99) * 1e6;
        for (index, sample) in self.samples.iter().enumerate() {
            let until = self.samples.get(index + 1).map_or(now, |next| next.line.t_s).max(sample.line.t_s);
            let length = until - sample.line.t_s;
            let [source, target, link] = sample.losses;
            *of_source(record, source) += length;
            *of_target(record, target) += length;
            *of_link(record, link) += length;
        }
        let half = self.samples.iter().rfind(|sample| sample.line.t_s <= now / 2.0);
        if let Some(predicted) = half.map(|sample| sample.predicted) {
            record.predicted_s = predicted;
            record.prediction_error_percent = if now > 0.0 { (predicted / now - 1.0) * 100.0 } else { 0.0 };
        }
        (self.record, self.samples.into_iter().map(|sample| sample.line).collect())
    }

    /// The name of a phase in the series.
    pub fn phase(phase: Phase) -> String {
        match phase {
            Phase::Before => "before",
            Phase::Stopped => "stopped",
            Phase::After => "after",
            Phase::Done => "done",
        }
        .to_owned()
    }
}

fn of_source(record: &mut RunRecord, loss: Loss) -> &mut f64 {
    match loss {
        Loss::Nothing => &mut record.source_nothing_s,
        Loss::Restarts => &mut record.source_restarts_s,
        Loss::Pauses => &mut record.source_pauses_s,
        Loss::Reboots => &mut record.source_reboots_s,
        Loss::Loses => &mut record.source_loses_s,
    }
}

fn of_target(record: &mut RunRecord, loss: Loss) -> &mut f64 {
    match loss {
        Loss::Nothing => &mut record.target_nothing_s,
        Loss::Restarts => &mut record.target_restarts_s,
        Loss::Pauses => &mut record.target_pauses_s,
        Loss::Reboots => &mut record.target_reboots_s,
        Loss::Loses => &mut record.target_loses_s,
    }
}

fn of_link(record: &mut RunRecord, loss: Loss) -> &mut f64 {
    match loss {
        Loss::Nothing => &mut record.link_nothing_s,
        Loss::Restarts => &mut record.link_restarts_s,
        Loss::Pauses => &mut record.link_pauses_s,
        Loss::Reboots => &mut record.link_reboots_s,
        Loss::Loses => &mut record.link_loses_s,
    }
}

#[cfg(test)]
#[path = "meter_tests.rs"]
mod tests;
