//! A disk or RAM in the model: granules in classes of popularity, and how many of each class the target
//! lacks.
//!
//! The states of a granule, and the numbers that count them:
//!
//! | number | granules that |
//! |---|---|
//! | `fresh` | were never copied |
//! | `left` | are to be copied: the fresh ones, and in a copy without rounds those that became stale |
//! | `next` | were written since a round began; they may be left in this round too |
//!
//! Writes hit the granules of a class at random: of `done` ones, `w` writes on `n` granules make
//! `done * (1 - e^(-w/n))` stale.

use workload::math::hit;

use crate::policy::{Plan, SpaceSeen};

/// Granules that are used equally often.
#[derive(Clone, Copy, Debug, Default)]
pub struct Class {
    /// Their number.
    pub n: f64,
    /// The share of all writes that goes to them.
    pub writes: f64,
    /// See the module.
    pub fresh: f64,
    /// See the module.
    pub left: f64,
    /// See the module.
    pub next: f64,
}

/// The seconds over which rates are averaged.
const SMOOTH: f64 = 2.0;

/// A disk or RAM.
#[derive(Clone, Debug)]
pub struct Space {
    /// Bytes of a granule.
    pub granule: f64,
    /// The classes, the most popular first.
    pub classes: Vec<Class>,
    /// Rounds that were begun.
    pub rounds: u32,
    /// Everything that was copied, and the part of it that had been copied before, in bytes.
    pub copied: f64,
    /// See `copied`.
    pub recopied: f64,
    copied_rate: f64,
    dirty_rate: f64,
    least: (f64, f64),
}

impl Space {
    /// Creates a space of which nothing is copied yet.
    pub fn new(granule: f64, classes: Vec<Class>) -> Self {
        let classes =
            classes.into_iter().map(|class| Class { fresh: class.n, left: class.n, ..class }).collect();
        let mut space = Space {
            granule,
            classes,
            rounds: 0,
            copied: 0.0,
            recopied: 0.0,
            copied_rate: 0.0,
            dirty_rate: 0.0,
            least: (0.0, 0.0),
        };
        space.least.0 = space.todo();
        space
    }

    fn sum(&self, of: impl Fn(&Class) -> f64) -> f64 {
        self.classes.iter().map(of).sum::<f64>() * self.granule
    }

    /// Bytes of all granules.
    pub fn size(&self) -> f64 {
        self.sum(|class| class.n)
    }

    /// Bytes that are to be copied.
    pub fn todo(&self) -> f64 {
        self.sum(|class| class.left + class.next - class.left * class.next / class.n.max(1e-9))
    }

    /// Bytes that are to be copied before a round ends, or without rounds.
    pub fn left(&self) -> f64 {
        self.sum(|class| class.left)
    }

    /// Bytes that were never copied.
    pub fn fresh(&self) -> f64 {
        self.sum(|class| class.fresh)
    }

    /// Bytes of all granules that the guest uses.
    pub fn used(&self) -> f64 {
        self.sum(|class| if class.writes > 0.0 { class.n } else { 0.0 })
    }

    /// Bytes of granules that were written since the round began.
    pub fn next(&self) -> f64 {
        self.sum(|class| class.next)
    }

    /// The share of the guest's writes that goes to granules which are not to be copied.
    pub fn done_share(&self) -> f64 {
        self.classes.iter().map(|class| class.writes * (1.0 - class.left / class.n.max(1e-9))).sum()
    }

    /// Begins a round: everything that was written is left, and nothing else.
    pub fn freeze(&mut self) {
        for class in &mut self.classes {
            class.left += class.next - class.left * class.next / class.n.max(1e-9);
            class.next = 0.0;
        }
        self.rounds += 1;
    }

    /// Ends rounds: what was written since the last one began is left as well.
    pub fn merge(&mut self) {
        let rounds = self.rounds;
        self.freeze();
        self.rounds = rounds;
    }

    /// Writes to granules at random. In rounds, every one counts for the next round; otherwise those that
    /// were copied become left. Returns the bytes that became stale.
    pub fn write(&mut self, writes: f64) -> f64 {
        let mut stale = 0.0;
        for class in &mut self.classes {
            let times = writes * class.writes / class.n.max(1e-9);
            if times <= 0.0 {
                continue;
            }
            let share = hit(times);
            if self.rounds > 0 {
                let new = (class.n - class.next) * share;
                class.next += new;
                stale += new;
            } else {
                let new = (class.n - class.left) * share;
                class.left += new;
                stale += new;
            }
        }
        stale * self.granule
    }

    /// Writes to granules at random; those that are left count as copied then. Returns their bytes.
    pub fn overwrite(&mut self, writes: f64) -> f64 {
        let mut gone = 0.0;
        for class in &mut self.classes {
            let share = hit(writes * class.writes / class.n.max(1e-9));
            gone += class.left * share;
            class.fresh -= class.fresh * share;
            class.left -= class.left * share;
        }
        gone * self.granule
    }

    /// The number of granules that so many uses at random would find left.
    pub fn found_left(&self, uses: f64) -> f64 {
        let found = |class: &Class| class.left * hit(uses * class.writes / class.n.max(1e-9));
        self.classes.iter().filter(|class| class.left > 0.0).map(found).sum()
    }

    /// Copies some bytes of what is left, in an order. Copies no more than there is.
    pub fn copy(&mut self, bytes: f64, plan: Plan) {
        let left: f64 = self.classes.iter().map(|class| class.left).sum();
        let granules = (bytes / self.granule).min(left);
        if granules <= 0.0 {
            return;
        }
        let mut fresh = 0.0;
        let mut take = |class: &mut Class, count: f64| {
            let share = if class.left > 0.0 { (count / class.left).min(1.0) } else { 0.0 };
            fresh += class.fresh * share;
            class.fresh -= class.fresh * share;
            class.left -= class.left * share;
            if class.left < 1e-6 {
                (class.left, class.fresh) = (0.0, 0.0);
            }
        };
        let mut rest = granules;
        let mut from = |class: &mut Class| {
            let count = rest.min(class.left);
            rest -= count;
            take(class, count);
        };
        match plan {
            Plan::Sequential => {
                let share = granules / left;
                for class in &mut self.classes {
                    take(class, class.left * share);
                }
            }
            Plan::ColdFirst => self.classes.iter_mut().rev().for_each(&mut from),
            Plan::HotFirst => self.classes.iter_mut().for_each(&mut from),
            Plan::Trace => {
                // A trace knows what will be used, and not how often: all that is used at all comes first, in
                // proportion.
                let used: f64 =
                    self.classes.iter().filter(|class| class.writes > 0.0).map(|class| class.left).sum();
                let first = granules.min(used);
                for class in &mut self.classes {
                    let of = if class.writes > 0.0 { (used, first) } else { (left - used, granules - first) };
                    take(class, if of.0 > 0.0 { class.left * of.1 / of.0 } else { 0.0 });
                }
            }
        }
        self.copied += granules * self.granule;
        self.recopied += (granules - fresh).max(0.0) * self.granule;
    }

    /// Records what a step copied and made stale, for the averages that policies see. A step that copied
    /// nothing does not count for the copy's rate.
    pub fn observe(&mut self, now: f64, seconds: f64, copied: f64, dirtied: f64) {
        let weight = (seconds / SMOOTH).min(1.0);
        let average = |old: f64, new: f64| if old == 0.0 { new } else { old + (new - old) * weight };
        if copied > 0.0 {
            self.copied_rate = average(self.copied_rate, copied / seconds);
        }
        self.dirty_rate = average(self.dirty_rate, dirtied / seconds);
        let todo = self.todo();
        if todo < self.least.0 * 0.999 - self.granule {
            self.least = (todo, now);
        }
    }

    /// The state as policies see it.
    pub fn seen(&self, window: f64) -> SpaceSeen {
        SpaceSeen {
            size: self.size() as u64,
            todo: self.todo() as u64,
            fresh: self.fresh() as u64,
            round: self.left() as u64,
            next: self.next() as u64,
            rounds: self.rounds,
            copied: self.copied as u64,
            copied_rate: self.copied_rate,
            dirty_rate: self.dirty_rate,
            least_todo: self.least.0 as u64,
            least_at: self.least.1,
            window: window as u64,
        }
    }
}

#[cfg(test)]
#[path = "space_tests.rs"]
mod tests;
