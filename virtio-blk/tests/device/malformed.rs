//! Rings and chains that no driver may build: the device asks for a reset and touches nothing.

use virtio::Device;
use virtio_bindings::virtio_blk::VIRTIO_BLK_T_IN;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
use vm_memory::{Bytes, GuestAddress};

use super::rig::{Data, END, Rig, Setup, header};
use virtio::driver::{Driver, INDIRECT, NEXT, WRITE};

const HEADER: u64 = 0x20_0000;
const DATA: u64 = 0x20_1000;
const STATUS: u64 = 0x20_2000;
const TABLE: u64 = 0x20_3000;

/// Lets `build` make a chain at descriptor 0, which is then made available. The device must ask for a reset,
/// change no byte of guest memory but its own fields of the ring, and work again after a reset.
fn refused(what: &str, build: impl Fn(&mut Driver)) {
    for event_idx in [false, true] {
        let mut rig = Rig::new(Setup { event_idx, ..Setup::default() });
        reject(&mut rig, what, &build);
    }
}

fn reject(rig: &mut Rig, what: &str, build: impl Fn(&mut Driver)) {
    rig.disk.settle();
    let driver = &mut rig.drivers[0];
    driver.memory.write_slice(&header(VIRTIO_BLK_T_IN, 0), GuestAddress(HEADER)).unwrap();
    driver.set_avail_index(0);
    build(driver);
    let unseen = driver.get::<u16>(driver.avail() + 2) == 0;
    if unseen {
        driver.add_head(0);
    }
    let before = driver.bytes(0, END as usize);
    if unseen {
        driver.publish();
    } else {
        driver.kick.write(1).unwrap();
    }
    rig.expect_needs_reset();

    let driver = &rig.drivers[0];
    let mut after = driver.bytes(0, END as usize);
    // These may change: flags and avail_event of the used ring, which are the device's, and the driver's
    // index.
    for at in [driver.used(), driver.used() + 4 + 8 * u64::from(driver.size), driver.avail() + 2] {
        let at = at as usize;
        after[at..at + 2].copy_from_slice(&before[at..at + 2]);
    }
    assert!(before == after, "{what}: guest memory was changed");
    assert_eq!(rig.disk.with(|disk| disk.log.take()), [], "{what}: the disk was asked");
    assert_eq!(rig.disk.with(|disk| disk.tickets()), 0);
    assert_eq!(rig.interrupts.counts().used, [0]);

    // Nothing more is taken, until a reset.
    rig.drivers[0].kick.write(1).unwrap();
    rig.disk.settle();
    assert_eq!(rig.disk.with(|disk| disk.log.take()), []);
    rig.device.reset();
    rig.activate();
    assert_eq!(rig.request(VIRTIO_BLK_T_IN, 0, Data::In(512)).0, 0, "{what}: after the reset");
}

/// Writes a valid read of 512 bytes into descriptors 0, 1 and 2.
fn good(driver: &mut Driver) {
    let table = driver.table();
    driver.describe(table, 0, HEADER, 16, NEXT, 1);
    driver.describe(table, 1, DATA, 512, NEXT | WRITE, 2);
    driver.describe(table, 2, STATUS, 1, WRITE, 0);
}

/// Writes the read of [`good`] with one descriptor made invalid.
fn bad(index: u16, address: u64, len: u32, flags: u16, next: u16) -> impl Fn(&mut Driver) {
    move |driver| {
        good(driver);
        driver.describe(driver.table(), index, address, len, flags, next);
    }
}

#[test]
fn the_good_one_is_good() {
    let mut rig = Rig::new(Setup::default());
    let driver = &mut rig.drivers[0];
    driver.memory.write_slice(&header(VIRTIO_BLK_T_IN, 0), GuestAddress(HEADER)).unwrap();
    good(driver);
    driver.add_head(0);
    driver.set_used_event(1);
    driver.publish();
    rig.interrupts.wait(|counts| counts.used == [1]);
    assert_eq!(rig.drivers[0].get::<u8>(STATUS), 0);
}

#[test]
fn available_indices() {
    refused("more available than entries", |driver| driver.set_avail_index(17));
    refused("the index went back", |driver| driver.set_avail_index(0xffff));
    refused("a head out of range", |driver| {
        good(driver);
        driver.put(16u16, driver.avail() + 4);
        driver.set_avail_index(1);
    });
    refused("a head far out of range", |driver| {
        good(driver);
        driver.put(0xffffu16, driver.avail() + 4);
        driver.set_avail_index(1);
    });
}

#[test]
fn chains() {
    refused("a loop of two", bad(1, DATA, 512, NEXT | WRITE, 1));
    refused("a loop through the header", bad(0, HEADER, 16, NEXT, 0));
    refused("next out of range", bad(1, DATA, 512, NEXT | WRITE, 16));
    refused("next far out of range", bad(1, DATA, 512, NEXT | WRITE, 0xffff));
    refused("no status", bad(0, HEADER, 16, 0, 0));
    refused("a header of 15 bytes", bad(0, HEADER, 15, NEXT, 1));
    refused("a header of no bytes", bad(0, HEADER, 0, NEXT, 1));
    refused("no header", bad(0, HEADER, 16, NEXT | WRITE, 1));
    refused("data of no bytes", bad(1, DATA, 0, NEXT | WRITE, 2));
    refused("a status of no bytes", bad(2, STATUS, 0, WRITE, 0));
    refused("a readable descriptor behind a writable one", bad(2, STATUS, 1, 0, 0));
}

#[test]
fn addresses() {
    refused("a header outside", bad(0, END, 16, NEXT, 1));
    refused("a header across the end", bad(0, END - 15, 16, NEXT, 1));
    refused("a header that wraps", bad(0, u64::MAX - 7, 16, NEXT, 1));
    refused("data outside", bad(1, END, 512, NEXT | WRITE, 2));
    refused("data across the end", bad(1, END - 511, 512, NEXT | WRITE, 2));
    refused("data that wraps", bad(1, u64::MAX, 512, NEXT | WRITE, 2));
    refused("data of 4 GiB", bad(1, 0, u32::MAX, NEXT | WRITE, 2));
    refused("a status outside", bad(2, END, 1, WRITE, 0));
    refused("a status at the last address", bad(2, u64::MAX, 1, WRITE, 0));
}

/// Writes the header directly, and the rest through an indirect table of `len` bytes at `address`.
fn indirect(address: u64, len: u32, flags: u16) -> impl Fn(&mut Driver) {
    move |driver| {
        let table = driver.table();
        driver.describe(table, 0, HEADER, 16, NEXT, 1);
        driver.describe(table, 1, address, len, INDIRECT | flags, 2);
        driver.describe(table, 2, STATUS, 1, WRITE, 0);
        driver.describe(TABLE, 0, DATA, 512, NEXT | WRITE, 1);
        driver.describe(TABLE, 1, STATUS, 1, WRITE, 0);
    }
}

#[test]
fn indirect_tables() {
    refused("NEXT and INDIRECT", indirect(TABLE, 32, NEXT));
    refused("an empty table", indirect(TABLE, 0, 0));
    refused("a table of half a descriptor", indirect(TABLE, 24, 0));
    refused("a table outside", indirect(END, 32, 0));
    refused("a table across the end", |driver| {
        indirect(END - 16, 32, 0)(driver);
        driver.describe(END - 16, 0, DATA, 512, NEXT | WRITE, 1);
    });
    refused("a table that wraps", indirect(u64::MAX - 7, 32, 0));
    refused("next outside of the table", indirect(TABLE, 16, 0));
    refused("indirect in indirect", |driver| {
        indirect(TABLE, 32, 0)(driver);
        driver.describe(TABLE, 0, TABLE, 32, INDIRECT, 0);
    });
    refused("a loop in the table", |driver| {
        indirect(TABLE, 32, 0)(driver);
        driver.describe(TABLE, 1, DATA, 512, NEXT | WRITE, 0);
    });
    refused("a chain of 257 descriptors", |driver| {
        indirect(TABLE, 16 * 300, 0)(driver);
        for n in 0..255 {
            driver.describe(TABLE, n, DATA, 512, NEXT | WRITE, n + 1);
        }
        driver.describe(TABLE, 255, STATUS, 1, WRITE, 0);
    });

    let mut rig = Rig::new(Setup { without: 1 << VIRTIO_RING_F_INDIRECT_DESC, ..Setup::default() });
    reject(&mut rig, "not negotiated", indirect(TABLE, 32, 0));
}

#[test]
fn direct_descriptors_before_an_indirect_one_are_good() {
    let mut rig = Rig::new(Setup::default());
    assert!(rig.indirect());
    let driver = &mut rig.drivers[0];
    driver.memory.write_slice(&header(VIRTIO_BLK_T_IN, 0), GuestAddress(HEADER)).unwrap();
    // WRITE beside INDIRECT is ignored (2.7.5.3.2).
    indirect(TABLE, 32, WRITE)(driver);
    driver.add_head(0);
    driver.set_used_event(1);
    driver.publish();
    rig.interrupts.wait(|counts| counts.used == [1]);
    assert_eq!(rig.drivers[0].get::<u8>(STATUS), 0);
}

#[test]
fn more_in_flight_than_entries() {
    let mut rig = Rig::new(Setup { ring: 4, event_idx: false, ..Setup::default() });
    rig.disk.with(|disk| disk.hold.set(true));
    let driver = &mut rig.drivers[0];
    driver.memory.write_slice(&header(VIRTIO_BLK_T_IN, 0), GuestAddress(HEADER)).unwrap();
    good(driver);
    for count in 1..=5 {
        let driver = &mut rig.drivers[0];
        driver.add_head(0);
        driver.set_avail_index(count);
        driver.kick.write(1).unwrap();
        rig.disk.settle();
    }
    rig.expect_needs_reset();
    assert_eq!(rig.disk.with(|disk| disk.log.borrow().len()), 4);
    // The requests in flight may end, and do no harm.
    rig.disk.with(|disk| disk.release_all());
    rig.disk.settle();
    assert_eq!(rig.disk.with(|disk| disk.tickets()), 0);
}

#[test]
fn one_bad_queue_stops_the_device_but_not_what_is_in_flight() {
    let mut rig = Rig::new(Setup { queues: 2, ..Setup::default() });
    rig.disk.with(|disk| disk.hold.set(true));
    let first = rig.add(0, VIRTIO_BLK_T_IN, 0, Data::In(512));
    rig.drivers[0].publish();
    rig.disk.run(|disk| disk.wait_held(1));
    rig.drivers[1].set_avail_index(1000);
    rig.drivers[1].kick.write(1).unwrap();
    rig.expect_needs_reset();

    rig.add(0, VIRTIO_BLK_T_IN, 0, Data::In(512));
    rig.drivers[0].publish();
    rig.disk.settle();
    assert_eq!(rig.disk.with(|disk| disk.log.borrow().len()), 1, "nothing more is taken");
    rig.disk.with(|disk| disk.release_all());
    assert_eq!(rig.wait_used(0).0, first.head);
    rig.device.reset();
}

#[test]
fn a_broken_device_takes_nothing_when_the_gate_opens() {
    let mut rig = Rig::new(Setup { queues: 2, ..Setup::default() });
    rig.disk.with(|disk| disk.close());
    rig.add(0, VIRTIO_BLK_T_IN, 0, Data::In(512));
    rig.drivers[0].publish();
    rig.disk.settle();
    rig.drivers[1].set_avail_index(17);
    rig.drivers[1].kick.write(1).unwrap();
    rig.expect_needs_reset();
    rig.disk.with(|disk| disk.open());
    rig.disk.settle();
    assert_eq!(rig.disk.with(|disk| disk.log.take()), []);
    assert_eq!(rig.disk.with(|disk| disk.tickets()), 0);
}
