//! Accesses within windows and between them.

use std::sync::Mutex;

use super::*;

#[derive(Default)]
struct Log(Mutex<Vec<(u64, Vec<u8>)>>);

impl Target for Log {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(offset as u8);
    }
    fn write(&self, offset: u64, data: &[u8]) {
        self.0.lock().unwrap().push((offset, data.to_vec()));
    }
}

#[test]
fn accesses_reach_their_window_whole_or_not_at_all() {
    let (low, high) = (Arc::new(Log::default()), Arc::new(Log::default()));
    let mut bus = Bus::new();
    bus.add(0x2000, 0x100, high.clone());
    bus.add(0x1000, 0x100, low.clone());
    bus.add(0x1100, 0x10, Arc::new(Log::default()));

    let read = |address, len| {
        let mut data = vec![0; len];
        bus.read(address, &mut data);
        data
    };
    assert_eq!(read(0x1004, 4), [4; 4]);
    assert_eq!(read(0x20ff, 1), [0xff]);
    assert_eq!(read(0x10fe, 4), [0xff; 4], "leaves its window");
    assert_eq!(read(0xfff, 1), [0xff]);
    assert_eq!(read(0x1110, 8), [0xff; 8]);
    assert_eq!(read(u64::MAX, 8), [0xff; 8]);

    bus.write(0x2010, &[1, 2]);
    bus.write(0x20ff, &[1, 2]);
    bus.write(0, &[9]);
    bus.write(u64::MAX, &[9; 8]);
    assert_eq!(*high.0.lock().unwrap(), [(0x10, vec![1, 2])]);
    assert!(low.0.lock().unwrap().is_empty());
}

#[test]
fn string_instructions_are_accesses_to_one_place() {
    let log = Arc::new(Log::default());
    let mut bus = Bus::new();
    bus.add(0x3f8, 8, log.clone());
    let mut data = [0; 40];
    bus.read_elements(0x3fd, 1, &mut data);
    assert_eq!(data, [5; 40], "more bytes than the window has");
    bus.write_elements(0x3fe, 2, &[1, 2, 3, 4]);
    assert_eq!(*log.0.lock().unwrap(), [(6, vec![1, 2]), (6, vec![3, 4])]);
    bus.read_elements(0x3ff, 2, &mut data);
    assert_eq!(data, [0xff; 40], "each of them leaves its window");
}

#[test]
#[should_panic(expected = "overlap")]
fn overlapping_windows_are_a_mistake_of_ours() {
    let mut bus = Bus::new();
    bus.add(0x1000, 0x100, Arc::new(Log::default()));
    bus.add(0x10f0, 0x100, Arc::new(Log::default()));
}
