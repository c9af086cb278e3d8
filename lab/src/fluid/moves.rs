//! A step of the guest, of its RAM and of the copiers, with what each makes stale, sends and writes.

use super::guest::RESERVE;
use super::{CPU_MIRROR, IN_FLIGHT, Run, classes};
use crate::policy::{Phase, Tee};

impl Run<'_> {
    /// The guest's requests, and what becomes stale by them.
    pub(super) fn guest_step(&mut self, seconds: f64, dirtied: &mut f64) {
        let place = self.place();
        let step = self.guest.step(self.now, seconds, &place);
        self.meter.add(&step.latencies);
        // An open guest wants what arrives. A closed one wants what it had before.
        let idle = self.meter.record.idle_iops * seconds;
        let each = 1.0 + self.guest.flushes();
        self.meter.miss(step.arrived.map_or(idle, |arrived| arrived * each) - step.ended * each);
        let len = self.guest.len();
        let link = place.link.rate;
        let record = &mut self.meter.record;
        let mut beside = 0.0;
        let Some(part) = &mut self.disk else { return };
        let before = self.phase == Phase::Before;
        let touched = step.writes * (len / part.space.granule).max(1.0);
        if before {
            let mirrored = step.writes * place.mirrored * len;
            record.cpu_s_per_gib += step.writes * place.mirrored * CPU_MIRROR;
            match part.tee {
                Tee::Background | Tee::Delta => *dirtied = part.space.write(touched),
                // Without a link, what would go to both sides is copied later.
                _ if link <= 0.0 => *dirtied = part.space.write(touched),
                Tee::Active | Tee::Behind(_) | Tee::Overlay => beside = mirrored,
                Tee::All => {
                    beside = mirrored;
                    part.space.overwrite(touched * (len / part.space.granule).min(1.0));
                }
            }
            if let Some(overlay) = &mut self.overlay
                && part.tee == Tee::Overlay
            {
                overlay.write(touched);
                let peak = overlay.left();
                record.space_ratio = record.space_ratio.max(peak);
            } else if part.tee == Tee::Delta {
                record.space_ratio = record.space_ratio.max(part.space.next() + part.space.left());
            }
        } else if part.pulls {
            let gone = part.space.overwrite(step.ended * (len / part.space.granule).max(1.0));
            beside = gone;
            let faults = gone / part.space.granule;
            record.source_read_bytes += gone as u64;
            self.faulted += gone;
            self.meter.add_faults(step.fault_latency, faults);
        }
        if let Tee::Behind(_) = part.tee {
            self.window += if before { beside } else { 0.0 };
            let most = link.min(self.setup.target.write_rate) * (1.0 - RESERVE);
            beside = self.window.min(most * seconds);
            self.window = (self.window - beside).max(0.0);
            if self.window < 1.0 {
                self.window = 0.0;
            }
        }
        let record = &mut self.meter.record;
        record.sent_bytes += beside as u64;
        record.target_written_bytes += beside as u64;
        self.beside = beside / seconds;
        if self.phase == Phase::After && self.merging > 0.0 {
            let rate = self.setup.target.write_rate.min(self.setup.target.read_rate) / 2.0;
            self.merging = (self.merging - rate * seconds).max(0.0);
            self.meter.record.target_written_bytes += (rate * seconds) as u64;
        }
    }

    /// The guest's use of its RAM.
    pub(super) fn ram_step(&mut self, seconds: f64, dirtied: &mut f64) {
        let Some(ram) = self.setup.ram else { return };
        let link = self.link_rate();
        let Some(part) = &mut self.ram else { return };
        let writes = ram.dirty / classes::PAGE * self.dirty.0 * (1.0 - part.throttle) * seconds;
        match self.phase {
            Phase::Before => *dirtied = part.space.write(writes),
            Phase::After if part.pulls && link > 0.0 => {
                // It reads as much as it writes.
                let found = part.space.found_left(2.0 * writes) * classes::PAGE;
                // It waits for pages, so it finds no more of them missing than the link brings.
                let share = (link * seconds / found.max(1.0)).min(1.0);
                let gone = part.space.overwrite(2.0 * writes * share);
                let latency = 2.0 * self.setup.link.delay + classes::PAGE / link + 30e-6;
                self.meter.record.sent_bytes += gone as u64;
                self.faulted += gone;
                self.meter.add_faults(latency, gone / classes::PAGE);
                self.beside += gone / seconds;
            }
            Phase::After | Phase::Stopped | Phase::Done => {}
        }
    }

    /// Copies for a time.
    pub(super) fn copy(&mut self, rates: (f64, f64), seconds: f64, dirtied: (f64, f64)) {
        let now = self.now;
        let record = &mut self.meter.record;
        for (part, rate, dirty, ram) in
            [(&mut self.disk, rates.0, dirtied.0, false), (&mut self.ram, rates.1, dirtied.1, true)]
        {
            let Some(part) = part else { continue };
            let before = part.space.copied;
            part.space.copy(rate * seconds, part.plan);
            if part.space.left() < part.space.granule / 16.0 {
                // Less than a granule is nothing.
                part.space.copy(part.space.granule, part.plan);
            }
            let copied = part.space.copied - before;
            part.space.observe(now, seconds, copied, dirty);
            record.sent_bytes += copied as u64;
            if !ram {
                record.source_read_bytes += copied as u64;
                record.target_written_bytes += copied as u64;
            }
        }
        let device = if self.phase == Phase::After {
            self.setup.target.write_rate
        } else {
            self.setup.source.read_rate
        };
        self.copier = (rates.0 / device).min(0.9);
        // Where the link is what the copies wait for, all of them are in it.
        let share = ((rates.0 + rates.1) / self.setup.link.rate).min(1.0);
        self.in_link = if self.phase == Phase::Stopped { 0.0 } else { IN_FLIGHT * share };
    }
}
