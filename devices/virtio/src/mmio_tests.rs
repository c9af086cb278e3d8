//! The register file, with a device that only records the calls it gets.

use std::sync::mpsc::{Receiver, Sender, channel};

use executor::{Executor, Remote};

use super::*;

/// The config space at power-on.
const CONTENT: [u8; 8] = *b"12345678";
const FEATURES: u64 = VERSION_1 | EVENT_IDX | 1 << 9;

enum Told {
    Activate(Activation),
    Reset,
}

struct Fake {
    told: Sender<Told>,
    refuse: bool,
    config: [u8; 8],
    remote: Remote,
}

impl Device for Fake {
    fn id(&self) -> u32 {
        2
    }
    fn features(&self) -> u64 {
        FEATURES
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![256, 64]
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = usize::try_from(at).ok().and_then(|at| self.config.get(at)).copied().unwrap_or(0);
        }
    }
    fn config_generation(&self) -> u32 {
        7
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            if let Some(place) = usize::try_from(at).ok().and_then(|at| self.config.get_mut(at)) {
                *place = *byte;
            }
        }
    }
    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        if self.refuse {
            return Err(io::Error::other("refused"));
        }
        self.told.send(Told::Activate(activation)).map_err(io::Error::other)
    }
    fn reset(&mut self) {
        self.config = CONTENT;
        let _ = self.told.send(Told::Reset);
    }
    fn pause(&mut self) -> Reply<()> {
        self.remote.call(|| async {})
    }
    fn resume(&mut self) {}
}

struct Rig {
    transport: Transport,
    told: Receiver<Told>,
}

impl Rig {
    fn new(refuse: bool) -> Self {
        let (sender, told) = channel();
        let remote = Executor::simulated(0).remote();
        let device = Fake { told: sender, refuse, config: CONTENT, remote };
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 64 << 20)]).unwrap());
        Rig { transport: Transport::new(Box::new(device), memory).unwrap(), told }
    }

    fn read(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    fn write64(&self, low: u64, value: u64) {
        self.write(low, value as u32);
        self.write(low + 4, (value >> 32) as u32);
    }

    fn negotiate(&self, features: u64) {
        for status in [ACKNOWLEDGE, ACKNOWLEDGE | DRIVER] {
            self.write(STATUS, status);
        }
        for half in [0, 1] {
            self.write(DRIVER_FEATURES_SEL, half);
            self.write(DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
        self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    }

    fn queue(&self, index: u32, size: u32, rings: [u64; 3]) {
        self.write(QUEUE_SEL, index);
        self.write(QUEUE_NUM, size);
        self.write64(QUEUE_DESC_LOW, rings[0]);
        self.write64(QUEUE_DRIVER_LOW, rings[1]);
        self.write64(QUEUE_DEVICE_LOW, rings[2]);
        self.write(QUEUE_READY, 1);
    }

    fn go(&self) -> u32 {
        self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        self.read(STATUS)
    }

    fn activated(&self) -> Option<Activation> {
        self.told.try_iter().find_map(|told| match told {
            Told::Activate(activation) => Some(activation),
            Told::Reset => None,
        })
    }

    fn resets(&self) -> usize {
        self.told.try_iter().filter(|told| matches!(told, Told::Reset)).count()
    }
}

const RINGS: [u64; 3] = [0x10_0000, 0x10_2000, 0x10_3000];
const LIVE: u32 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;

#[test]
fn a_driver_brings_the_device_up() {
    let rig = Rig::new(false);
    assert_eq!((rig.read(MAGIC), rig.read(VERSION), rig.read(DEVICE_ID)), (0x7472_6976, 2, 2));
    rig.write(DEVICE_FEATURES_SEL, 1);
    assert_eq!(rig.read(DEVICE_FEATURES), 1);
    rig.write(DEVICE_FEATURES_SEL, 2);
    assert_eq!(rig.read(DEVICE_FEATURES), 0);
    rig.negotiate(VERSION_1 | EVENT_IDX);
    assert_eq!(rig.read(STATUS), ACKNOWLEDGE | DRIVER | FEATURES_OK);
    rig.write(QUEUE_SEL, 1);
    assert_eq!((rig.read(QUEUE_NUM_MAX), rig.read(QUEUE_READY)), (64, 0));
    rig.queue(1, 32, RINGS);
    assert_eq!(rig.read(QUEUE_READY), 1);
    rig.write(QUEUE_SEL, 2);
    assert_eq!((rig.read(QUEUE_NUM_MAX), rig.read(QUEUE_READY)), (0, 0));
    assert_eq!(rig.go(), LIVE);

    let activation = rig.activated().unwrap();
    assert_eq!(activation.features, VERSION_1 | EVENT_IDX);
    let [ready] = &activation.queues[..] else { panic!("one queue was made ready") };
    assert_eq!((ready.index, ready.queue.size(), ready.queue.desc_table()), (1, 32, RINGS[0]));
    assert_eq!((ready.queue.avail_ring(), ready.queue.used_ring()), (RINGS[1], RINGS[2]));
    assert!(ready.queue.event_idx_enabled());

    rig.write(QUEUE_NOTIFY, 1);
    rig.write(QUEUE_NOTIFY, 7);
    assert_eq!(ready.kick.read().unwrap(), 1);

    // Registers that must be written before DRIVER_OK are ignored now, and so is clearing bits.
    rig.queue(0, 16, RINGS);
    rig.write(DRIVER_FEATURES, 0);
    rig.write(STATUS, ACKNOWLEDGE);
    assert_eq!(rig.go(), LIVE);
    assert!(rig.activated().is_none());

    rig.write(STATUS, 0);
    assert_eq!(rig.resets(), 1);
    assert_eq!(rig.read(STATUS), 0);
    rig.write(QUEUE_SEL, 1);
    assert_eq!(rig.read(QUEUE_READY), 0);
}

#[test]
fn a_reset_before_driver_ok_forgets_what_was_written_to_config_space() {
    let rig = Rig::new(false);
    let written = |rig: &Rig| {
        let mut data = [0; 8];
        rig.transport.read(CONFIG, &mut data);
        data
    };
    rig.negotiate(VERSION_1);
    rig.transport.write(CONFIG + 2, b"ab");
    assert_eq!(&written(&rig), b"12ab5678");
    rig.write(STATUS, 0);
    assert_eq!(written(&rig), CONTENT);
    // The same by a reset of the machine.
    rig.transport.write(CONFIG, b"z");
    rig.transport.reset();
    assert_eq!(written(&rig), CONTENT);
}

#[test]
fn interrupts_are_bits_and_edges() {
    let rig = Rig::new(false);
    let (irq, _) = rig.transport.events().unwrap();
    rig.negotiate(VERSION_1);
    rig.queue(0, 256, RINGS);
    rig.go();
    let activation = rig.activated().unwrap();
    activation.interrupt.used(0);
    activation.interrupt.config_changed();
    assert_eq!(irq.read().unwrap(), 2);
    assert_eq!(rig.read(INTERRUPT_STATUS), USED_BUFFER | CONFIG_CHANGE);
    assert_eq!(rig.read(CONFIG_GENERATION), 7, "the device's own");
    rig.write(INTERRUPT_ACK, USED_BUFFER);
    assert_eq!(rig.read(INTERRUPT_STATUS), CONFIG_CHANGE);
    activation.interrupt.needs_reset();
    assert_eq!(rig.read(STATUS), LIVE | NEEDS_RESET);
    rig.write(STATUS, 0);
    assert_eq!((rig.read(STATUS), rig.read(INTERRUPT_STATUS)), (0, 0));
}

#[test]
fn features_that_were_not_offered_are_refused() {
    for features in [0, EVENT_IDX, VERSION_1 | 1 << 5, u64::MAX] {
        let rig = Rig::new(false);
        rig.negotiate(features);
        assert_eq!(rig.read(STATUS), ACKNOWLEDGE | DRIVER, "{features:#x}");
        assert_eq!(rig.go() & DRIVER_OK, 0);
        assert!(rig.activated().is_none());
        rig.negotiate(VERSION_1);
        assert_eq!(rig.go(), LIVE, "a second try");
    }
    let rig = Rig::new(false);
    rig.write(STATUS, LIVE);
    assert_eq!(rig.read(STATUS) & (FEATURES_OK | DRIVER_OK), 0, "no features were accepted");
}

/// Counts log lines.
struct Lines(Arc<AtomicU32>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Lines {
    fn on_event(&self, _: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A guest must not fill the log's disk, or flood its readers.
#[test]
fn a_driver_that_starts_wrongly_again_and_again_writes_few_lines_to_the_log() {
    use tracing_subscriber::layer::SubscriberExt;

    let count = Arc::<AtomicU32>::default();
    let lines = tracing_subscriber::registry().with(Lines(count.clone()));
    tracing::subscriber::with_default(lines, || {
        let rig = Rig::new(false);
        for _ in 0..2000 {
            rig.write(STATUS, 0);
            rig.negotiate(VERSION_1);
            rig.queue(0, 0, RINGS);
            assert_ne!(rig.go() & NEEDS_RESET, 0);
        }
    });
    let lines = count.load(Ordering::Relaxed);
    // A burst, and some more for the time that this takes.
    assert!((1..=executor::log::BURST + 20).contains(&lines), "{lines} lines");
}

#[test]
fn queues_that_cannot_be_ask_for_a_reset() {
    let far = 0xc000_0000 - 0x1000;
    let cases = [
        (0, RINGS),
        (257, RINGS),
        (512, RINGS),
        (96, RINGS),
        (0x1_0010, RINGS),
        (u32::MAX, RINGS),
        (16, [RINGS[0] + 8, RINGS[1], RINGS[2]]),
        (16, [RINGS[0], RINGS[1] + 1, RINGS[2]]),
        (16, [RINGS[0], RINGS[1], RINGS[2] + 2]),
        (256, [(64 << 20) - 0x800, RINGS[1], RINGS[2]]),
        (16, [far, RINGS[1], RINGS[2]]),
        (16, [RINGS[0], !1, RINGS[2]]),
        (16, [RINGS[0], RINGS[1], !3]),
        (16, [!15, RINGS[1], RINGS[2]]),
    ];
    for (size, rings) in cases {
        let rig = Rig::new(false);
        let (irq, _) = rig.transport.events().unwrap();
        rig.negotiate(VERSION_1);
        rig.queue(0, size, rings);
        assert_eq!(rig.go(), LIVE | NEEDS_RESET, "{size} {rings:x?}");
        assert!(rig.activated().is_none());
        assert_eq!(irq.read().unwrap(), 1);
    }
    let rig = Rig::new(true);
    rig.negotiate(VERSION_1);
    assert_eq!(rig.go(), LIVE | NEEDS_RESET, "the device refuses");
}

#[test]
fn stopping_one_live_queue_stops_the_device() {
    let rig = Rig::new(false);
    rig.negotiate(VERSION_1);
    rig.queue(0, 16, RINGS);
    rig.go();
    rig.write(QUEUE_READY, 0);
    assert_eq!(rig.read(QUEUE_READY), 0);
    assert_eq!(rig.read(STATUS), LIVE | NEEDS_RESET);
    assert_eq!(rig.resets(), 1);
}

#[test]
fn config_space_has_any_width() {
    let rig = Rig::new(false);
    for len in [1, 2, 4, 8] {
        let mut data = vec![0; len];
        rig.transport.read(CONFIG, &mut data);
        assert_eq!(data, b"12345678"[..len]);
    }
    rig.transport.write(CONFIG + 2, b"ab");
    let mut data = [9; 4];
    rig.transport.read(CONFIG + 6, &mut data);
    assert_eq!(&data, b"78\0\0");
    rig.transport.read(CONFIG + 1, &mut data);
    assert_eq!(&data, b"2ab5");
}

/// Any register, any value, any width, in any order, without a panic; a live device always has valid queues.
#[test]
fn a_hostile_driver_does_no_harm() {
    let mut seed = 1u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let rig = Rig::new(false);
    let mut active = 0;
    for round in 0..200_000u64 {
        if round.is_multiple_of(50) {
            rig.write(STATUS, 0);
            rig.negotiate(VERSION_1);
            rig.queue(0, 16, RINGS);
        }
        if round.is_multiple_of(100) {
            rig.go();
        }
        let offset = (random() % 0x140) & if random() % 8 == 0 { !0 } else { !3 };
        let value = match random() % 4 {
            0 => random(),
            1 => random() % 4,
            2 => RINGS[random() as usize % 3],
            _ => 0xf | random() & 0xf0,
        };
        let len = [4, 4, 4, 4, 1, 2, 8][random() as usize % 7];
        if random().is_multiple_of(2) {
            rig.transport.write(offset, &value.to_le_bytes()[..len]);
        } else {
            rig.transport.read(offset, &mut [0; 8][..len]);
        }
        if let Some(activation) = rig.activated() {
            active += 1;
            for ready in &activation.queues {
                assert!(in_memory(&ready.queue, &activation.memory));
            }
        }
    }
    assert!(active > 100, "{active}");
}
