//! The flight recorder: the last requests of a disk, and those around its last switch.

use std::sync::Arc;
use std::time::Duration;

use super::OPS;
use crate::disk::stats::{Ended, Op};

/// The number of requests that are remembered.
pub(super) const KEPT: usize = 1 << 16;
/// The most requests that are kept around a switch; the nearest ones, if there are more.
pub(super) const FROZEN: usize = 20 << 10;
/// The time before and after a switch whose requests are kept.
pub const AROUND: Duration = Duration::from_millis(50);
/// Bits of [`Record::place`] below the offset: the kind, and one for failure.
const SHIFT: u32 = 3;
const FAILED: u64 = 4;

/// A request in 16 bytes.
#[derive(Clone, Copy)]
pub(super) struct Record {
    /// Time since the end of the request before, in ns; four seconds and more count as that.
    gap: u32,
    /// In ns, exact to 24 bits.
    latency: f32,
    /// The offset, then the kind and failure in the low bits.
    place: u64,
}

/// A request around a switch.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Request {
    /// Time at which it ended.
    pub ended: Duration,
    /// Its latency in ns.
    pub latency: f32,
    /// Its kind.
    pub op: Op,
    /// Offset on the disk in bytes; 0 for a flush.
    pub offset: u64,
    /// True if it failed.
    pub failed: bool,
}

/// The requests that ended within [`AROUND`] of a switch. A clone is cheap.
#[derive(Clone)]
pub struct Frozen {
    /// The number of the switch: the disk's first one is 1.
    pub number: u64,
    /// Time of the switch.
    pub at: Duration,
    /// True if there were more requests than are kept.
    pub cut: bool,
    first: Duration,
    records: Arc<[Record]>,
}

impl Frozen {
    /// Returns the number of requests.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Returns true if there were no requests.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns the requests in the order in which they ended.
    pub fn requests(&self) -> impl Iterator<Item = Request> {
        let mut ended = self.first;
        self.records.iter().enumerate().map(move |(index, record)| {
            if index > 0 {
                ended += Duration::from_nanos(record.gap.into());
            }
            Request {
                ended,
                latency: record.latency,
                op: OPS[(record.place & (FAILED - 1)) as usize],
                offset: record.place >> SHIFT,
                failed: record.place & FAILED != 0,
            }
        })
    }
}

/// The recorder of a disk.
#[derive(Default)]
pub(super) struct Recorder {
    /// Memory for [`KEPT`] records, made with the first one.
    ring: Vec<Record>,
    /// The place of the next record.
    next: usize,
    /// The time at which the last request ended.
    last: Duration,
    /// The number of switches.
    switches: u64,
    /// The time of a switch whose record is not complete.
    pending: Option<Duration>,
    frozen: Option<Frozen>,
}

impl Recorder {
    pub(super) fn ended(&mut self, now: Duration, request: &Ended) {
        if self.pending.is_some() {
            self.complete(now);
        }
        let gap = u32::try_from(now.saturating_sub(self.last).as_nanos()).unwrap_or(u32::MAX);
        let failed = if request.failed { FAILED } else { 0 };
        let place = request.offset.min(u64::MAX >> SHIFT) << SHIFT | failed | request.op as u64;
        let record = Record { gap, latency: request.latency.as_nanos() as f32, place };
        self.last = now;
        if self.ring.len() < KEPT {
            if self.ring.capacity() == 0 {
                self.ring.reserve_exact(KEPT);
            }
            self.ring.push(record);
        } else {
            self.ring[self.next] = record;
        }
        self.next = (self.next + 1) % KEPT;
    }

    pub(super) fn switched(&mut self, now: Duration) {
        self.switches += 1;
        self.pending = Some(now);
        self.frozen = None;
    }

    pub(super) fn complete_at(&self) -> Option<Duration> {
        self.pending.map(|at| at + AROUND)
    }

    pub(super) fn frozen(&mut self, now: Duration) -> Option<Frozen> {
        self.complete(now);
        self.frozen.clone()
    }

    /// The record of the request that ended this many requests before the last one.
    fn back(&self, back: usize) -> &Record {
        &self.ring[(self.next + KEPT - 1 - back) % KEPT]
    }

    /// The times at which requests ended, backwards from the last one, as far as they are known. Behind a gap
    /// that is too long to be recorded they are not: no window around a switch reaches across it.
    fn times(&self) -> impl Iterator<Item = Duration> {
        let mut next = Some(self.last);
        (0..self.ring.len()).map_while(move |back| {
            let ended = next?;
            let gap = self.back(back).gap;
            next = ended.checked_sub(Duration::from_nanos(gap.into())).filter(|_| gap != u32::MAX);
            Some(ended)
        })
    }

    /// Copies the requests around the pending switch, if they all have ended by `now`.
    fn complete(&mut self, now: Duration) {
        let Some(at) = self.pending.filter(|at| now > *at + AROUND) else { return };
        self.pending = None;
        let from = at.saturating_sub(AROUND);
        let inside = || self.times().take_while(|ended| *ended >= from);
        let (all, after) = (inside().count(), inside().take_while(|ended| *ended >= at).count());
        // The newest come first. If there are too many, those nearest to the switch stay.
        let low = after.saturating_sub(FROZEN / 2).min(all.saturating_sub(FROZEN));
        let high = all.min(low + FROZEN);
        self.frozen = Some(Frozen {
            number: self.switches,
            at,
            cut: all == KEPT || high - low < all,
            first: if high > low { inside().nth(high - 1).unwrap_or(at) } else { at },
            records: (low..high).rev().map(|back| *self.back(back)).collect(),
        });
    }
}
