use executor::Executor;

use super::super::SimHosts;
use super::super::stamps::{Content, Stamp};
use super::*;

/// A device that reads 1 GB/s and writes half as much.
pub(in super::super) fn service() -> Service {
    Service {
        read_rate: 1e9,
        write_rate: 5e8,
        read_latency: Duration::from_micros(80),
        write_latency: Duration::from_micros(20),
        iops: 1e5,
        flush: Duration::from_millis(1),
        depth: 4,
    }
}

fn device(original: u64) -> (Rc<SimDevice>, Rc<dyn Storage>) {
    let device = SimDevice::new("device", 64 << 20, original, service()).unwrap();
    (device.clone(), SimHosts::new().add_near(&device))
}

/// Blocks of the guest's disk from `first` on, in this version.
pub(in super::super) fn written(first: u32, count: u32, version: u32) -> Buf {
    let buf = Buf::new(count as usize * BLOCK as usize);
    for index in 0..count {
        Stamp { block: first + index, version }.put(&buf, index as usize * BLOCK as usize);
    }
    buf
}

/// Reads a block and returns its stamp.
async fn stamp_at(storage: &Rc<dyn Storage>, block: u32) -> Option<Stamp> {
    let buf = Buf::new(BLOCK as usize);
    storage.read(u64::from(block) * BLOCK, buf.clone()).await.unwrap();
    Stamp::get(&buf, 0)
}

#[test]
fn requests_take_as_long_as_the_device_needs() {
    Executor::simulated(1).block_on(async {
        let (_, storage) = device(64 << 20);
        let took = async |len: usize, write: bool| {
            let begin = executor::now();
            match write {
                true => storage.write(0, Buf::new(len)).await.unwrap(),
                false => storage.read(0, Buf::new(len)).await.unwrap(),
            }
            executor::now() - begin
        };
        // The latency, and 10 us for a hundred thousandth of a second.
        assert_eq!(took(4096, false).await, Duration::from_micros(90));
        assert_eq!(took(1_024_000, false).await, Duration::from_micros(1024 + 80));
        assert_eq!(took(1_024_000, true).await, Duration::from_micros(2048 + 20));
        let begin = executor::now();
        storage.sync().await.unwrap();
        assert_eq!(executor::now() - begin, Duration::from_millis(1));
    });
}

#[test]
fn a_small_request_waits_for_a_piece_of_a_large_one_and_takes_its_time_from_it() {
    Executor::simulated(1).block_on(async {
        let (_, storage) = device(64 << 20);
        let large = |at: u64| {
            let storage = storage.clone();
            executor::spawn(async move {
                storage.read(at << 20, Buf::new(10 << 20)).await.unwrap();
                executor::now()
            })
        };
        let (first, second) = (large(0), large(10));
        executor::sleep(Duration::from_millis(1)).await;
        let begin = executor::now();
        storage.read(0, Buf::new(4096)).await.unwrap();
        let took = executor::now() - begin;
        assert!(took <= Duration::from_micros(90 + 33), "{took:?}");
        let ends = [first.await.unwrap(), second.await.unwrap()].into_iter().max().unwrap();
        assert!(ends >= Duration::from_nanos(20 << 20), "{ends:?}");
    });
}

#[test]
fn a_full_queue_has_requests_wait() {
    Executor::simulated(1).block_on(async {
        let (device, _) = device(64 << 20);
        let ends: Vec<u64> = (0..6).map(|_| device.serve(Kind::Read, 4096, 0)).collect();
        // Four at once; the fifth begins when the first has ended.
        assert_eq!(ends, [90_000, 100_000, 110_000, 120_000, 180_000, 190_000]);
    });
}

#[test]
fn a_misdirected_write_is_found_at_both_places() {
    Executor::simulated(3).block_on(async {
        let (device, storage) = device(64 << 20);
        device.set_lies(Lies { misdirected: 1000, ..Lies::default() });
        storage.write(8 * BLOCK, written(8, 1, 1)).await.unwrap();
        // The place that was meant is stale,
        assert_eq!(stamp_at(&storage, 8).await, Some(Stamp { block: 8, version: 0 }));
        // and another one holds what belongs elsewhere.
        let mut wrong = Vec::new();
        for block in 0..(64 << 20) / BLOCK as u32 {
            wrong.extend(stamp_at(&storage, block).await.filter(|stamp| stamp.block != block));
        }
        assert_eq!(wrong, [Stamp { block: 8, version: 1 }]);
    });
}

#[test]
fn rot_is_in_what_was_read_and_not_on_the_device() {
    Executor::simulated(4).block_on(async {
        let (device, storage) = device(64 << 20);
        device.set_lies(Lies { rot: 1000, ..Lies::default() });
        let rotten = stamp_at(&storage, 5).await.unwrap();
        assert!(rotten.block == 5 && rotten.version != 0, "{rotten:?}");
        device.set_lies(Lies::default());
        assert_eq!(stamp_at(&storage, 5).await, Some(Stamp { block: 5, version: 0 }));
    });
}

#[test]
fn a_lost_flush_is_seen_only_after_a_power_cut() {
    for lost in [false, true] {
        Executor::simulated(5).block_on(async move {
            let (device, storage) = device(64 << 20);
            device.prepare_power_cut();
            device.set_lies(Lies { lost_flushes: if lost { 1000 } else { 0 }, ..Lies::default() });
            storage.write(0, written(0, 32, 1)).await.unwrap();
            storage.sync().await.unwrap();
            storage.write(BLOCK, written(1, 1, 2)).await.unwrap();
            assert_eq!(stamp_at(&storage, 1).await, Some(Stamp { block: 1, version: 2 }));
            device.cut_power();
            let flushed = if lost { 0 } else { 1 };
            assert_eq!(stamp_at(&storage, 1).await, Some(Stamp { block: 1, version: flushed }));
            assert_eq!(stamp_at(&storage, 31).await, Some(Stamp { block: 31, version: flushed }));
        });
    }
}

#[test]
fn bytes_and_odd_lengths_are_kept_as_they_are() {
    Executor::simulated(6).block_on(async {
        let (device, storage) = device(0);
        storage.write(5000, Buf::from_bytes(b"a header")).await.unwrap();
        let back = Buf::new(10);
        storage.read(4999, back.clone()).await.unwrap();
        assert_eq!(back.to_vec(), b"\0a header\0");
        storage.punch(4096, 4096).await.unwrap();
        assert_eq!(device.stamps().borrow().get(1), Content::Zero);
        storage.punch(0, 1 << 20).await.unwrap();
        let hole = storage.map(0, 1 << 20).await.unwrap();
        assert_eq!((hole.len, hole.data), (1 << 20, false));
        let full = storage.write((64 << 20) - 4096, Buf::new(8192)).await.unwrap_err();
        assert_eq!(full.kind(), ErrorKind::NoSpace);
        assert_eq!(SimDevice::new("x", 1 << 50, 0, service()).err().unwrap().kind(), ErrorKind::Invalid);
    });
}
