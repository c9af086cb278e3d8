//! Parking, resuming and ending, without KVM.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use executor::Executor;

use super::*;

async fn until_out(gate: &Gate) {
    let waiter = gate.signal.waiter().unwrap();
    while !gate.all_out() {
        waiter.wait().await;
    }
}

#[test]
fn threads_park_resume_and_end() {
    let gate = Gate::new(3, Wanted::Park).unwrap();
    let rounds = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (seat, rounds) = (Seat(gate.clone()), rounds.clone());
            thread::spawn(move || {
                while seat.pass(|| ()) {
                    rounds.fetch_add(1, Ordering::Relaxed);
                    thread::yield_now();
                }
            })
        })
        .collect();
    let shared = gate.clone();
    Executor::new().unwrap().block_on(async move {
        until_out(&shared).await;
        assert_eq!(rounds.load(Ordering::Relaxed), 0, "made parked");
        for _ in 0..100 {
            shared.set(Wanted::Run);
            shared.set(Wanted::Park);
            until_out(&shared).await;
        }
        shared.set(Wanted::Run);
        assert!(!shared.closed());
        shared.close();
        shared.set(Wanted::Run);
        until_out(&shared).await;
        let before = rounds.load(Ordering::Relaxed);
        thread::yield_now();
        assert_eq!(rounds.load(Ordering::Relaxed), before);
        shared.set(Wanted::End);
        shared.set(Wanted::Run);
    });
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(gate.all_out());
}

#[test]
fn a_thread_that_panics_is_out() {
    let gate = Gate::new(1, Wanted::Run).unwrap();
    let seat = Seat(gate.clone());
    let thread = thread::spawn(move || {
        let _seat = seat;
        panic!("on purpose");
    });
    assert!(thread.join().is_err());
    assert!(gate.all_out());
}
