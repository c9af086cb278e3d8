//! The part of a device that all have, around a model that only counts.

use std::sync::atomic::{AtomicUsize, Ordering};

use executor::Thread;
use vm_memory::{GuestAddress, GuestMemoryMmap};
use zerocopy::little_endian::U32;

use super::*;
use crate::driver::Interrupts;

#[derive(Default)]
struct Counts {
    resets: AtomicUsize,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Config {
    first: U32,
    second: U32,
}

impl Model for Counts {
    const ID: u32 = 42;
    type Config = Config;
    type Keep = ();

    fn features(&self) -> u64 {
        1 << 5
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![8]
    }

    fn config(&self) -> Config {
        Config { first: 0x0403_0201.into(), second: 0x0807_0605.into() }
    }

    fn serve(self: Arc<Self>, driver: Negotiated, _: Vec<Queue>) -> io::Result<Vec<Task>> {
        if driver.has(5) { Ok(Vec::new()) } else { Err(io::Error::other("without its feature")) }
    }

    fn on_reset(&self) {
        self.resets.fetch_add(1, Ordering::Relaxed);
    }
}

fn device() -> VirtioDevice<Counts> {
    let thread = Thread::start("device", std::future::pending).unwrap();
    VirtioDevice::new(thread.remote().clone(), Counts::default())
}

#[test]
fn config_space_is_read_in_any_pieces_with_zeros_behind() {
    let device = device();
    let whole: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0];
    for at in 0..12 {
        for len in 0..=12 - at {
            let mut bytes = [0xaa; 12];
            device.read_config(at as u64, &mut bytes[..len]);
            assert_eq!(bytes[..len], whole[at..at + len]);
            assert!(bytes[len..].iter().all(|byte| *byte == 0xaa));
        }
    }
    for offset in [12, 1000, u64::MAX] {
        let mut bytes = [0xaa; 8];
        device.read_config(offset, &mut bytes);
        assert_eq!(bytes, [0; 8]);
    }
}

#[test]
fn every_device_offers_the_common_features() {
    let device = device();
    assert_eq!((device.id(), device.features()), (42, 1 << 32 | 1 << 29 | 1 << 28 | 1 << 5));
}

#[test]
fn the_model_returns_to_power_on_at_each_reset_and_at_the_end() {
    let mut device = device();
    let model = device.model().clone();
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap());
    let interrupts = Arc::new(Interrupts::default());
    let activation = |features| Activation {
        memory: memory.clone(),
        features,
        queues: Vec::new(),
        interrupt: interrupts.clone(),
    };
    device.activate(activation(1 << 5)).unwrap();
    assert!(device.activate(activation(1 << 5)).is_err(), "a second time");
    assert_eq!(model.resets.load(Ordering::Relaxed), 0);
    device.reset();
    assert_eq!(model.resets.load(Ordering::Relaxed), 1);
    assert_eq!(interrupts.counts().needs_reset, 0);
    device.activate(activation(0)).unwrap();
    interrupts.wait(|counts| counts.needs_reset == 1);
    drop(device);
    assert_eq!(model.resets.load(Ordering::Relaxed), 2);
}
