use executor::Executor;

use super::super::SimHosts;
use super::super::device::tests::{service, written};
use super::super::stamps::Stamp;
use super::*;

/// A device behind a link of 100 MB/s and 5 ms.
fn far() -> (Rc<SimLink>, Rc<SimDevice>, Rc<dyn Storage>) {
    let device = SimDevice::new("device", 64 << 20, 64 << 20, service()).unwrap();
    let line = Line { rate: 1e8, delay: Duration::from_millis(5), jitter: Duration::ZERO };
    let link = SimLink::new(line);
    let storage = SimHosts::new().add_far("far", &link, &device);
    (link, device, storage)
}

#[test]
fn data_takes_the_links_time_and_the_devices() {
    Executor::simulated(1).block_on(async {
        let (link, _, storage) = far();
        let begin = executor::now();
        storage.write(0, written(0, 250, 1)).await.unwrap();
        let took = (executor::now() - begin).as_secs_f64();
        // 1,024,000 bytes over the link, then onto the device, and the answer.
        let expected = 10.24e-3 + 2.048e-3 + 20e-6 + 10e-3;
        assert!((took - expected).abs() < 5e-6, "{took} instead of {expected}");
        storage.read(0, Buf::new(4096)).await.unwrap();
        assert_eq!(link.traffic(), Traffic { data: 1_024_000 + 4096, again: 0 });
    });
}

#[test]
fn requests_share_one_direction_and_not_the_other() {
    Executor::simulated(1).block_on(async {
        let (_, _, storage) = far();
        let begin = executor::now();
        let write = |at: u64| {
            let storage = storage.clone();
            executor::spawn(async move { storage.write(at << 20, written(0, 250, 1)).await.unwrap() })
        };
        let (one, two) = (write(0), write(1));
        executor::yield_now().await;
        storage.read(8 << 20, Buf::new(4096)).await.unwrap();
        // The read's request waits for the data that was sent before it, if it was.
        one.await.unwrap();
        two.await.unwrap();
        let took = (executor::now() - begin).as_secs_f64();
        assert!((20.48e-3..36e-3).contains(&took), "{took}");
    });
}

#[test]
fn what_a_cut_interrupts_is_sent_again() {
    Executor::simulated(2).block_on(async {
        let (link, device, storage) = far();
        let other = storage.clone();
        let task = executor::spawn(async move { other.write(0, written(0, 16, 1)).await.unwrap() });
        executor::sleep(Duration::from_millis(3)).await;
        link.cut(Duration::from_secs(2));
        assert!(link.is_cut());
        let begin = executor::now();
        task.await.unwrap();
        let took = executor::now() - begin;
        assert!(took > Duration::from_secs(2) && took < Duration::from_millis(2030), "{took:?}");
        assert_eq!(link.traffic(), Traffic { data: 2 * 16 * BLOCK, again: 1 });
        let buf = Buf::new(BLOCK as usize);
        device.stamps().borrow().read(3, &buf);
        assert_eq!(Stamp::get(&buf, 0), Some(Stamp { block: 3, version: 1 }));
    });
}

#[test]
fn jitter_delays_answers_and_follows_from_the_seed() {
    let times = |seed: u64| {
        Executor::simulated(seed).block_on(async {
            let device = SimDevice::new("device", 1 << 20, 0, service()).unwrap();
            let millis = Duration::from_millis;
            let link = SimLink::new(Line { rate: 1e9, delay: millis(1), jitter: millis(1) });
            let storage = SimHosts::new().add_far("far", &link, &device);
            let mut times = Vec::new();
            for _ in 0..200 {
                let begin = executor::now();
                storage.read(0, Buf::new(4096)).await.unwrap();
                times.push(executor::now() - begin);
            }
            times
        })
    };
    let first = times(1);
    assert_eq!(first, times(1));
    assert_ne!(first, times(2));
    let mean = first.iter().sum::<Duration>().as_secs_f64() / 200.0;
    // Half of a normal distribution has a mean of 0.8 deviations.
    assert!((2.6e-3..3.2e-3).contains(&mean), "{mean}");
    assert!(first.iter().all(|time| *time >= Duration::from_millis(2)));
}
