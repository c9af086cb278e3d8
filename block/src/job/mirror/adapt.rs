//! A mirror that adapts to its disk: what the controller ([`super::control`]) sees, and its orders.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::control::{Controller, Limits, Seen};
use super::replica::Replica;
use super::{CopyMode, MirrorTuning};
use crate::disk::job::Job;

/// The time between two looks of the controller.
const TICK: Duration = Duration::from_millis(100);
/// One of this many writes may be late: the limit is for the 99th percentile.
const OF: u64 = 100;
/// The longest time over which writes are counted, in ticks.
const TICKS: u32 = 5;

/// The guest's writes that took longer than the limit.
#[derive(Default)]
pub(super) struct Late {
    limit: Cell<Option<Duration>>,
    over: Cell<u64>,
    all: Cell<u64>,
    ticks: Cell<u32>,
    /// The last finding.
    late: Cell<bool>,
}

impl Late {
    /// Counts a write that has begun at this time.
    pub(super) fn ended(&self, began: Duration) {
        if let Some(limit) = self.limit.get() {
            self.all.set(self.all.get() + 1);
            self.over.set(self.over.get() + u64::from(executor::now().saturating_sub(began) > limit));
        }
    }

    /// Returns true if too many were late. Called once a tick.
    fn look(&self) -> bool {
        self.ticks.set(self.ticks.get() + 1);
        if self.all.get() >= OF || self.ticks.get() >= TICKS {
            self.late.set(self.over.take() * OF > self.all.take());
            self.ticks.set(0);
        }
        self.late.get()
    }
}

impl Replica {
    /// Begins in this way.
    pub(super) fn tune(&self, mode: CopyMode, tuning: &MirrorTuning) {
        self.late.limit.set(tuning.max_latency);
        self.adapts.set(tuning.adaptive);
        let both = mode == CopyMode::WriteBlocking && !tuning.adaptive;
        self.chosen.set(both);
        self.set_active(both);
        self.window.set(tuning.window);
        if !tuning.adaptive {
            self.behind.set_window(tuning.window);
        }
        if tuning.adaptive || tuning.window > 0 {
            self.pacer.turn_on();
        }
    }

    /// Has the controller decide from now on, if the mirror is adaptive, until its end begins.
    pub(super) fn adapt(&self, job: &Rc<Job>, tuning: &MirrorTuning) {
        if !self.adapts.get() {
            return;
        }
        let limits = Limits {
            deadline: tuning.deadline,
            latency: tuning.max_latency.is_some(),
            window: tuning.window,
        };
        let (this, job) = (self.this.clone(), Rc::downgrade(job));
        executor::spawn(async move {
            let mut controller = Controller::new(limits);
            let (mut worked, mut last) = (Duration::ZERO, executor::now());
            // Neither is kept by this.
            while let (Some(this), Some(job)) = (this.upgrade(), job.upgrade()) {
                if !this.adapts.get() || job.has_ended() {
                    return;
                }
                let now = executor::now();
                let passed = now.saturating_sub(std::mem::replace(&mut last, now));
                let late = this.late.look();
                if !job.must_rest() {
                    worked += passed;
                    let orders = controller.tick(&Seen {
                        now: worked,
                        todo: this.remaining(),
                        cleaned: this.cleaned.get(),
                        data: this.data.get(),
                        late,
                        ready: job.is_ready(),
                    });
                    this.set_active(orders.active);
                    this.behind.set_window(if orders.active { orders.window } else { 0 });
                    this.hurries.set(orders.active);
                }
                drop((this, job));
                executor::sleep(TICK).await;
            }
        });
    }

    /// The end begins: from here on writes go to both sides at once, and nobody decides otherwise.
    pub(super) fn follow_to_the_end(&self) {
        self.adapts.set(false);
        self.hurries.set(true);
        self.behind.set_window(0);
        self.set_active(true);
    }
}
