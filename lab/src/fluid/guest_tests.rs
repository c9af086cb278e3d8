use super::*;

#[test]
fn as_many_requests_arrive_as_the_rate_says() {
    let arrival = Arrival::Open { rate: 5.0, poisson: true };
    let mut guest = Guest::new(&Spec { arrival, ..Spec::default() }, 1);
    let sum: f64 = (0..100_000).map(|step| guest.arrivals(f64::from(step) / 100.0, 0.01)).sum();
    assert!((sum / 5000.0 - 1.0).abs() < 0.03, "{sum}");
}

fn device(name: &str) -> Device {
    Device::preset(name).unwrap()
}

fn place<'a>(device: &'a Device, stopped: bool) -> Place<'a> {
    Place {
        device,
        other: device,
        link: Link { rate: 125e6, delay: 1e-4, jitter: 0.0 },
        tee: Tee::Background,
        mirrored: 0.0,
        room: 0.0,
        faulting: 0.0,
        fetched: 0.0,
        copier: 0.0,
        throttle: 0.0,
        behind: 0.0,
        stopped,
    }
}

/// Runs a guest and returns what ended: latencies with the number of requests of each.
fn run(guest: &mut Guest, place: &Place<'_>, from: f64, seconds: f64) -> Vec<(f64, f64)> {
    let steps = (seconds / 0.1).round() as u32;
    (0..steps).flat_map(|step| guest.step(from + f64::from(step) / 10.0, 0.1, place).latencies).collect()
}

fn longest(latencies: &[(f64, f64)]) -> f64 {
    latencies.iter().map(|latency| latency.0).fold(0.0, f64::max)
}

#[test]
fn requests_that_came_during_a_stop_have_waited_since_they_came() {
    let disk = device("hdd-7200");
    let arrival = Arrival::Open { rate: 60.0, poisson: false };
    let mut guest = Guest::new(&Spec { arrival, read: 1.0, ..Spec::default() }, 1);
    let idle = longest(&run(&mut guest, &place(&disk, false), 0.0, 20.0));
    assert!(run(&mut guest, &place(&disk, true), 20.0, 10.0).is_empty());
    let after = run(&mut guest, &place(&disk, false), 30.0, 40.0);
    let most = longest(&after);
    assert!(most > 9.9 && most < 11.5 + idle, "{most}");
    // 600 came during the stop, 108 end each second, 60 more come: the queue is gone after 12.5 s, so 1350
    // have waited for 5 s on average.
    let mean = after.iter().map(|(seconds, requests)| seconds * requests).sum::<f64>() / 2400.0;
    assert!((2.7..3.5).contains(&mean), "{mean}");
    assert!(longest(&run(&mut guest, &place(&disk, false), 70.0, 10.0)) <= idle * 1.01);
}

#[test]
fn every_client_of_a_closed_loop_has_waited_for_the_end_of_a_stop() {
    let disk = device("hdd-7200");
    let mut guest = Guest::new(&Spec { arrival: Arrival::Closed { depth: 8 }, ..Spec::default() }, 1);
    let sum = |latencies: &[(f64, f64)]| latencies.iter().map(|latency| latency.1).sum::<f64>();
    run(&mut guest, &place(&disk, false), 0.0, 5.0);
    let before = sum(&run(&mut guest, &place(&disk, false), 5.0, 5.0));
    run(&mut guest, &place(&disk, true), 10.0, 10.0);
    let after = run(&mut guest, &place(&disk, false), 20.0, 5.0);
    let late: f64 = after.iter().filter(|latency| latency.0 > 10.0).map(|latency| latency.1).sum();
    assert!((late - 8.0).abs() < 1e-6, "{late}");
    // Then they go on as before.
    assert!((sum(&after) / before - 1.0).abs() < 0.05, "{} {before}", sum(&after));
}

#[test]
fn times_without_requests_are_no_waits() {
    let disk = device("nvme");
    let arrival = Arrival::Open { rate: 0.05, poisson: true };
    let mut guest = Guest::new(&Spec { arrival, ..Spec::default() }, 3);
    assert!(longest(&run(&mut guest, &place(&disk, false), 0.0, 1000.0)) < 0.1);
}
