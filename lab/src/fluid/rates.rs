//! The shares of devices and link that guest and copiers get, and the length of a step.

use super::guest::{Place, RESERVE};
use super::{Part, Run, TINY};
use crate::experiment::{Device, Link};
use crate::policy::{Phase, Tee};

impl<'a> Run<'a> {
    /// The surroundings of the guest now.
    pub(super) fn place(&self) -> Place<'a> {
        let setup = self.setup;
        let before = matches!(self.phase, Phase::Before | Phase::Stopped);
        let (device, other) =
            if before { (&setup.source, &setup.target) } else { (&setup.target, &setup.source) };
        let link = Link { rate: self.link_rate(), ..setup.link };
        let throttle = if self.phase == Phase::Before {
            self.parts().map(|part| part.throttle).fold(0.0, f64::max)
        } else {
            0.0
        };
        let mut place = Place {
            device,
            other,
            link,
            tee: Tee::Background,
            mirrored: 0.0,
            room: 0.0,
            faulting: 0.0,
            fetched: 0.0,
            copier: self.copier,
            throttle,
            behind: self.in_link / link.rate.max(1.0),
            stopped: self.phase == Phase::Stopped,
        };
        if let Some(part) = &self.disk {
            place.tee = part.tee;
            if before && link.rate > 0.0 {
                place.mirrored = match part.tee {
                    Tee::Background | Tee::Delta => 0.0,
                    Tee::Active | Tee::Behind(_) => part.space.done_share(),
                    Tee::All | Tee::Overlay => 1.0,
                };
                if let Tee::Behind(most) = part.tee {
                    place.room = most as f64 - self.window;
                }
            } else if !before && part.pulls {
                let uses = (self.meter.last.rate * self.step).max(1.0);
                place.faulting = (part.space.found_left(uses) / uses).min(1.0);
                place.fetched = part.space.granule;
            }
        }
        place
    }

    /// The bytes per second that the copiers of disk and RAM get.
    pub(super) fn copy_rates(&self) -> (f64, f64) {
        let works = |part: &Option<Part>| {
            part.as_ref().is_some_and(|part| {
                let now = match self.phase {
                    Phase::Before => true,
                    Phase::Stopped => !part.pulls,
                    Phase::After => part.pulls,
                    Phase::Done => false,
                };
                now && part.resting <= 0.0 && part.space.left() > 0.0
            })
        };
        let link = self.link_rate();
        let spare = (link - self.beside).max(link * RESERVE);
        let setup = self.setup;
        let rate = self.meter.last.rate;
        let use_of = |device: &Device| {
            (rate * (1.0 / device.iops).max(self.guest.len() / device.read_rate)).clamp(0.0, 1.0 - RESERVE)
        };
        let (at_source, at_target) = match self.phase {
            Phase::Before => {
                (use_of(&setup.source), (self.beside / setup.target.write_rate).min(1.0 - RESERVE))
            }
            Phase::After => (0.0, use_of(&setup.target)),
            Phase::Stopped | Phase::Done => (0.0, 0.0),
        };
        let devices =
            (setup.source.read_rate * (1.0 - at_source)).min(setup.target.write_rate * (1.0 - at_target));
        let (disk, ram) = (works(&self.disk), works(&self.ram));
        let most = devices.min(self.disk.as_ref().map_or(0.0, |part| part.speed));
        match (disk, ram) {
            (true, true) => {
                let disk = most.min(spare / 2.0);
                (disk, spare - disk)
            }
            (true, false) => (most.min(spare), 0.0),
            (false, true) => (0.0, spare.min(self.ram.as_ref().map_or(0.0, |part| part.speed))),
            (false, false) => (0.0, 0.0),
        }
    }

    /// The length of the next step: until something ends, if that is earlier.
    pub(super) fn length(&self, rates: (f64, f64)) -> f64 {
        let mut length = self.step;
        for (part, rate) in [(&self.disk, rates.0), (&self.ram, rates.1)] {
            let Some(part) = part else { continue };
            if rate > 0.0 && (self.phase != Phase::Before || part.space.rounds > 0) {
                length = length.min(part.space.left() / rate);
            }
            if part.resting > 0.0 {
                length = length.min(part.resting);
            }
        }
        if self.phase == Phase::Stopped && self.stop_left > 0.0 && rates == (0.0, 0.0) {
            length = length.min(self.stop_left);
        }
        length.max(TINY)
    }
}
