//! The controller against traces, and against a model of a mirror whose numbers come from seeds.

use super::*;

const MIB: u64 = 1 << 20;

/// A stretch of a trace: seconds, bytes copied each second, and bytes by which what is left sinks each
/// second.
type Stretch = (f64, i64, i64);

/// Limits, ready, a trace, and between which seconds the mirror becomes active.
type Case<'a> = (Limits, bool, &'a [Stretch], Option<(f64, f64)>);

/// Plays a trace of a mirror of 1000 MiB, ten ticks a second. Returns the time at which it became active.
fn active_at(limits: Limits, ready: bool, trace: &[Stretch]) -> Option<f64> {
    let mut controller = Controller::new(limits);
    let (mut ticks, mut todo, mut cleaned) = (0, 1000.0 * MIB as f64, 0.0);
    for (seconds, copied, sinks) in trace {
        for _ in 0..(seconds * 10.0) as u64 {
            let now = Duration::from_millis(ticks * 100);
            let seen = Seen {
                now,
                todo: todo as u64,
                cleaned: cleaned as u64,
                data: cleaned as u64,
                late: false,
                ready,
            };
            if controller.tick(&seen).active {
                return Some(now.as_secs_f64());
            }
            ticks += 1;
            todo = f64::max(todo - (*sinks * MIB as i64) as f64 / 10.0, 0.0);
            cleaned += (*copied * MIB as i64) as f64 / 10.0;
        }
    }
    None
}

#[test]
fn a_mirror_becomes_active_when_it_gets_nowhere() {
    let none = Limits { latency: true, ..Limits::default() };
    let own = Limits::default();
    let by = |seconds| Limits { deadline: Some(Duration::from_secs(seconds)), latency: true, window: 0 };
    let cases: &[Case] = &[
        // Nobody writes.
        (own, false, &[(10.0, 100, 100)], None),
        // Sinks by more than half of what is copied.
        (none, false, &[(18.0, 100, 56)], None),
        // By less: after the patience, a quarter of 10 s.
        (none, false, &[(20.0, 100, 45)], Some((2.4, 2.7))),
        (none, false, &[(20.0, 100, 0)], Some((2.4, 2.7))),
        // It grows.
        (own, false, &[(20.0, 100, -50)], Some((0.2, 2.7))),
        // After some progress: at the end of the patience that it falls into, or of the next.
        (none, false, &[(4.0, 100, 100), (20.0, 100, 0)], Some((4.1, 7.6))),
        // A copy of everything takes long: the patience is 10 s.
        (none, false, &[(30.0, 1, 0)], Some((9.9, 10.2))),
        // A target that takes nothing, then something.
        (own, false, &[(60.0, 0, 0)], None),
        (none, false, &[(60.0, 0, -1)], None),
        // The share for the copier leaves 40 MiB/s of 60: at first 27.5 s with what is kept in hand, and more
        // with each second that is lost.
        (by(30), false, &[(30.0, 60, 31)], Some((15.0, 19.0))),
        // A deadline that cannot be kept: at once.
        (by(5), false, &[(60.0, 100, 100)], Some((0.2, 0.3))),
        (by(30), false, &[(10.0, 100, 100)], None),
        // It is ready, and nearly nothing is left.
        (own, true, &[(10.0, 100, 100), (60.0, 5, 0)], None),
        (own, true, &[(1.0, 100, 100), (60.0, 50, 0)], Some((1.0, 12.0))),
    ];
    for (n, (limits, ready, trace, expected)) in cases.iter().enumerate() {
        let found = active_at(*limits, *ready, trace);
        match (found, expected) {
            (None, None) => {}
            (Some(found), Some((from, to))) if (*from..=*to).contains(&found) => {}
            _ => panic!("case {n}: {found:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn the_window_follows_the_latency_and_the_mirror_gives_way_four_times() {
    let limits = Limits { latency: true, window: 8 * MIB, deadline: None };
    let mut controller = Controller::new(limits);
    let (mut now, mut cleaned) = (0, 0);
    let mut tick = |late, controller: &mut Controller| {
        now += 100;
        cleaned += 10 * MIB;
        let now = Duration::from_millis(now);
        controller.tick(&Seen { now, todo: 1000 * MIB, cleaned, data: cleaned, late, ready: false })
    };
    while !tick(true, &mut controller).active {}
    let windows: Vec<u64> = (0..5).map(|_| tick(true, &mut controller).window / MIB).collect();
    assert_eq!(windows, [1, 2, 4, 8, 8]);
    assert!(tick(false, &mut controller).window < 8 * MIB);
    for _ in 0..40 {
        assert!(tick(false, &mut controller).active, "nobody is late");
    }
    assert_eq!(tick(false, &mut controller).window, 0);
    let mut lengths = Vec::new();
    for _ in 0..4 {
        let mut ticks = 0;
        while tick(true, &mut controller).active {
            ticks += 1;
        }
        lengths.push(ticks);
        while !tick(true, &mut controller).active {}
    }
    assert!(lengths.windows(2).all(|pair| pair[1] >= pair[0] * 3 / 2), "the patience doubles: {lengths:?}");
    assert_eq!(controller.returns(), 4);
    for _ in 0..10_000 {
        assert!(tick(true, &mut controller).active, "not a fifth time");
    }
}

/// Without a limit of latency, a window is what the user has asked for.
#[test]
fn a_window_without_a_limit_of_latency_stays() {
    let mut controller = Controller::new(Limits { window: 5 * MIB, ..Limits::default() });
    for tick in 1..100 {
        let (now, cleaned) = (Duration::from_millis(tick * 100), tick * MIB);
        let orders =
            controller.tick(&Seen { now, todo: 99 * MIB, cleaned, data: cleaned, late: true, ready: false });
        assert_eq!(orders.window, 5 * MIB);
    }
}

/// Small random numbers: which ones does not matter.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low * (high / low).powf(self.below(1 << 20) as f64 / (1 << 20) as f64)
    }
}

/// A model of a mirror: a disk of granules, of which a guest writes a working set at random as fast as it
/// may, and a target with a rate that changes.
struct Model {
    random: Random,
    size: f64,
    /// The target's rates, the lowest and the highest, and the guest's.
    target: (f64, f64),
    guest: f64,
    /// The part of the disk that the guest writes, and bytes that become stale by each byte that it writes.
    works_on: f64,
    stale: f64,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e3779b97f4a7c15));
        random.below(2);
        let size = random.between(64.0, 65536.0) * MIB as f64;
        let lowest = random.between(8.0, 1000.0) * MIB as f64;
        let highest = if random.below(2) == 0 { lowest } else { lowest * random.between(1.0, 4.0) };
        Model {
            size,
            target: (lowest, highest),
            guest: random.between(1.0, 4000.0) * MIB as f64,
            works_on: random.between(0.001, 1.0),
            stale: random.between(1.0, 16.0),
            random,
        }
    }

    /// Runs it until nothing is left, or for too long. Returns the time, and the time and what was left when
    /// it became active for the last time.
    fn run(&mut self, limits: Limits, slow: bool) -> (f64, Option<(f64, f64)>) {
        let mut controller = Controller::new(limits);
        let mut share = Share::default();
        // Bytes to be copied of what the guest writes, and of the rest.
        let (mut hot, mut cold) = (self.size * self.works_on, self.size * (1.0 - self.works_on));
        let (mut now, mut cleaned, mut entered, mut active) = (0.0, 0.0, None, false);
        let mut rate = self.target.0;
        let step = 0.02;
        while hot + cold >= 1.0 {
            if self.random.below(50) == 0 {
                rate = self.random.between(self.target.0, self.target.1);
            }
            let todo = hot + cold;
            let seen = Seen {
                now: Duration::from_secs_f64(now),
                todo: todo as u64,
                cleaned: cleaned as u64,
                data: cleaned as u64,
                late: slow,
                ready: false,
            };
            let orders = controller.tick(&seen);
            if orders.active && !active {
                entered = Some((now, todo));
                share = Share::default();
            }
            active = orders.active;
            let mut room = rate * step;
            if active {
                // The guest is served first, as far as its share allows.
                let wants = self.guest * step * (1.0 - hot / (self.size * self.works_on).max(1.0));
                let mut wrote = 0.0;
                while wrote < wants.min(room) && share.may_write() {
                    let write = 65536.0;
                    share.wrote(write as u64);
                    wrote += write;
                }
                room -= wrote.min(room);
            }
            let copied = room.min(todo);
            share.copied(copied as u64);
            // In the order of the disk: both kinds alike.
            hot -= copied * (hot / todo);
            cold -= copied - copied * (hot / todo).min(1.0);
            (hot, cold) = (hot.max(0.0), cold.max(0.0));
            if copied >= todo {
                (hot, cold) = (0.0, 0.0);
            }
            cleaned += copied;
            if !active {
                let done = 1.0 - hot / (self.size * self.works_on);
                hot = (hot + self.guest * step * self.stale * done).min(self.size * self.works_on);
            }
            now += step;
            if now > 100.0 * self.size / self.target.0 + 10_000.0 {
                return (f64::INFINITY, entered);
            }
        }
        (now, entered)
    }
}

#[test]
fn after_the_last_entry_a_mirror_is_ready_within_what_was_left_by_the_reserved_share() {
    let mut entries = 0;
    for seed in 0..3000 {
        let mut model = Model::new(seed);
        let limits = match seed % 4 {
            0 | 1 => Limits::default(),
            2 => Limits { latency: true, ..Limits::default() },
            _ => Limits { deadline: Some(Duration::from_secs(seed)), ..Limits::default() },
        };
        let (ready, entered) = model.run(limits, limits.latency && seed % 8 < 4);
        assert!(ready.is_finite(), "seed {seed}: never ready");
        let Some((at, left)) = entered else { continue };
        entries += 1;
        let most = left / (model.target.0 * RESERVED) + BURST / model.target.0 + 0.1;
        assert!(ready - at <= most, "seed {seed}: {} s after its last entry, not {most}", ready - at);
    }
    assert!(entries > 500, "nothing was tried: {entries}");
}

/// With a target whose rate stays, the whole takes at most twice as long as without a writer.
#[test]
fn a_writer_makes_a_mirror_take_at_most_twice_as_long() {
    let mut entries = 0;
    for seed in 0..3000 {
        let mut model = Model::new(seed);
        model.target.1 = model.target.0;
        let alone = model.size / model.target.0;
        // Shorter than the shortest patience it cannot be.
        if alone < 2.0 {
            continue;
        }
        let (ready, entered) = model.run(Limits::default(), false);
        entries += u64::from(entered.is_some());
        assert!(ready <= 2.0 * alone + 0.1, "seed {seed}: {ready} s instead of {alone}");
    }
    assert!(entries > 500, "nothing was tried: {entries}");
}
