//! Any bytes in rings and descriptors: no panic, no hang, no access beyond the descriptors' memory.

use proptest::prelude::*;
use virtio::Device;
use vm_memory::{Bytes, GuestAddress};

use super::rig::{Data, Rig, Setup, header};

/// Runs the device on rings made of `bytes`, with several kicks while they change. Also for fuzzers: every
/// input is valid.
///
/// The first byte chooses the setup; the rest is written over descriptor table and available ring in
/// pieces, with a kick after each.
pub fn drive(bytes: &[u8]) {
    let (&[choice], bytes) = bytes.split_at(bytes.len().min(1)) else { return };
    let setup = Setup { event_idx: choice & 1 != 0, ring: 8, read_only: choice & 2 != 0, ..Setup::default() };
    let mut rig = Rig::new(setup);
    let driver = &rig.drivers[0];
    for (n, bytes) in bytes.chunks(8 * 16 + 2 * 11).enumerate() {
        let (table, ring) = bytes.split_at(bytes.len().min(8 * 16));
        // Half of the addresses are made to lie in guest memory, and half of the lengths to be short.
        // Otherwise nearly every chain would end at its first descriptor.
        let mut table = table.to_vec();
        for descriptor in table.chunks_exact_mut(16) {
            if descriptor[0] & 1 == 0 {
                descriptor[3..8].fill(0);
                descriptor[2] %= 4;
            }
            if descriptor[8] & 1 == 0 {
                descriptor[9] &= 3;
                descriptor[10..12].fill(0);
            }
            if choice & 4 == 0 {
                descriptor[12] &= 7;
                descriptor[14] &= 7;
                descriptor[15] = 0;
            }
        }
        driver.memory.write_slice(&table, GuestAddress(driver.table())).unwrap();
        driver.memory.write_slice(ring, GuestAddress(driver.avail())).unwrap();
        driver.memory.write_slice(&header(u32::from(choice >> 4), 0), GuestAddress(0)).unwrap();
        driver.set_avail_index(n as u16 + 1 + u16::from(choice == 0xff) * 100);
        driver.kick.write(1).unwrap();
        if choice & 8 != 0 {
            rig.disk.settle();
        }
    }
    rig.disk.settle();
    // Returns only when nothing is in flight.
    rig.device.reset();
    assert_eq!(rig.disk.with(|disk| disk.tickets()), 0);
    rig.activate();
    assert_eq!(rig.request(8, 0, Data::In(20)).0, 0, "a reset mends everything");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_rings_harm_nobody(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        drive(&bytes);
    }
}

/// A driver that rewrites its rings while the device reads them.
#[test]
fn rings_that_change_under_the_device() {
    let rig = Rig::new(Setup { ring: 8, ..Setup::default() });
    let driver = &rig.drivers[0];
    let mut seed = 1u64;
    for round in 0..20_000u64 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round);
        let at = (seed >> 40) % 128;
        let address = if round % 3 == 0 { driver.avail() + at % 22 } else { driver.table() + at };
        driver.put((seed >> 33) as u8 & 0x0f, address);
        if round % 5 == 0 {
            driver.kick.write(1).unwrap();
        }
    }
    rig.disk.settle();
}
