//! Overlapping locks exclude each other in the order of the requests; others do not wait.

use super::*;
use executor::{Executor, spawn, yield_now};

#[test]
fn overlapping_locks_are_granted_in_order() {
    for seed in 0..50 {
        Executor::simulated(seed).block_on(async {
            let locks = RangeLocks::new();
            let order = Rc::new(RefCell::new(Vec::new()));
            let first = locks.lock(0..10).await;
            let guards: Vec<_> = [(1, 5..20), (2, 15..30), (3, 40..50), (4, 0..5)]
                .into_iter()
                .map(|(n, range)| (n, locks.ask(range, false)))
                .collect();
            let tasks: Vec<_> = guards
                .into_iter()
                .map(|(n, guard)| {
                    let order = order.clone();
                    spawn(async move {
                        std::future::poll_fn(|cx| {
                            *guard.entry.waker.borrow_mut() = Some(cx.waker().clone());
                            if guard.entry.granted.get() { Poll::Ready(()) } else { Poll::Pending }
                        })
                        .await;
                        order.borrow_mut().push(n);
                    })
                })
                .collect();
            for _ in 0..10 {
                yield_now().await;
            }
            assert_eq!(*order.borrow(), [3], "2 waits behind 1, though nobody holds its range");
            drop(first);
            for task in tasks {
                task.await;
            }
            let order = order.take();
            let at = |n| order.iter().position(|m| *m == n).unwrap();
            assert!(at(1) < at(2));
        });
    }
}

#[test]
fn a_dropped_request_holds_up_nobody() {
    Executor::simulated(1).block_on(async {
        let locks = RangeLocks::new();
        let held = locks.lock(0..10).await;
        let request = locks.ask(5..15, false);
        let behind = locks.ask(12..20, false);
        assert!(!behind.entry.granted.get());
        drop(request);
        assert!(behind.entry.granted.get());
        assert!(locks.try_lock(9..10).is_none());
        assert!(locks.try_lock(10..12).is_some());
        drop((held, behind));
        assert!(!locks.is_locked(&(0..100)));
    });
}
