//! Tests of what tasks may rely on: order, time, other threads, descriptors, and replayable schedules.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use crate::sync::{Event, Semaphore, oneshot};
use crate::*;

#[test]
fn tasks_run_and_join() {
    let executor = Executor::new().unwrap();
    let sum = executor.block_on(async {
        let tasks: Vec<_> = (0..10u32)
            .map(|n| {
                spawn(async move {
                    yield_now().await;
                    n
                })
            })
            .collect();
        let mut sum = 0;
        for task in tasks {
            sum += task.await.unwrap();
        }
        sum
    });
    assert_eq!(sum, 45);
}

#[test]
fn cancelled_tasks_join_as_none_and_drop_what_they_hold() {
    Executor::simulated(1).block_on(async {
        let held = Rc::new(());
        let kept = held.clone();
        let task = spawn(async move {
            let _kept = kept;
            std::future::pending::<()>().await
        });
        yield_now().await;
        task.cancel();
        assert_eq!(Rc::strong_count(&held), 1);
        assert!(task.await.is_none());
    });
}

#[test]
fn what_runs_to_the_end_does_so_without_its_caller() {
    let left = Rc::new(());
    let kept = left.clone();
    let executor = Executor::simulated(1);
    executor.block_on(async move {
        let done = Rc::new(RefCell::new(Vec::new()));
        let work = |name: &'static str| {
            let done = done.clone();
            to_the_end(async move {
                sleep(Duration::from_millis(10)).await;
                done.borrow_mut().push(name);
                name
            })
        };
        assert_eq!(work("awaited").await, "awaited");
        drop(work("never begun"));
        assert_eq!(timeout(Duration::from_millis(1), work("left alone")).await, None);
        let asker = spawn(work("of a cancelled task"));
        sleep(Duration::from_millis(1)).await;
        asker.cancel();
        sleep(Duration::from_millis(20)).await;
        assert_eq!(*done.borrow(), ["awaited", "left alone", "of a cancelled task"]);

        // What is left when the executor is dropped is dropped with it.
        let endless = to_the_end(async move {
            let _kept = kept;
            std::future::pending::<()>().await
        });
        spawn(endless);
        sleep(Duration::from_millis(1)).await;
    });
    drop(executor);
    assert_eq!(Rc::strong_count(&left), 1);
}

#[test]
fn other_threads_call_in_and_get_gone_at_the_end() {
    let thread = Thread::start("test", std::future::pending).unwrap();
    let answer = thread.remote().call(|| async { 6 * 7 }).wait();
    assert_eq!(answer, Ok(42));

    let executor = Executor::new().unwrap();
    let remote = executor.remote();
    drop(executor);
    assert_eq!(remote.call(|| async { 1 }).wait(), Err(Gone));
}

#[test]
fn one_executor_awaits_another() {
    let thread = Thread::start("test", std::future::pending).unwrap();
    let remote = thread.remote().clone();
    let total = Executor::new().unwrap().block_on(async move {
        let mut total = 0;
        for n in 0..100u32 {
            total += remote.call(move || async move { n }).await.unwrap();
        }
        total
    });
    assert_eq!(total, 4950);
}

#[test]
fn descriptors_wake_tasks() {
    let (mut far, near) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let writer = std::thread::spawn(move || {
        for byte in 0..200u8 {
            far.write_all(&[byte]).unwrap();
        }
    });
    let bytes = Executor::new().unwrap().block_on(async move {
        let near = AsyncFd::new(near).unwrap();
        let mut bytes = Vec::new();
        loop {
            let mut buffer = [0; 16];
            let n = near.read_io(|mut s| s.read(&mut buffer)).await.unwrap();
            if n == 0 {
                return bytes;
            }
            bytes.extend_from_slice(&buffer[..n]);
        }
    });
    writer.join().unwrap();
    assert_eq!(bytes, (0..200u8).collect::<Vec<_>>());
}

#[test]
fn simulated_time_jumps_and_timeouts_end_what_hangs() {
    Executor::simulated(7).block_on(async {
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(now(), Duration::from_secs(3600));
        assert_eq!(timeout(Duration::from_secs(1), std::future::pending::<()>()).await, None);
        assert_eq!(timeout(Duration::from_secs(1), async { 5 }).await, Some(5));
        assert_eq!(now(), Duration::from_secs(3601));
    });
}

#[test]
fn real_timers_do_not_fire_early() {
    Executor::new().unwrap().block_on(async {
        let before = now();
        sleep(Duration::from_millis(20)).await;
        assert!(now() - before >= Duration::from_millis(20));
    });
}

fn schedule(seed: u64) -> Vec<u32> {
    Executor::simulated(seed).block_on(async {
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks: Vec<_> = (0..8)
            .map(|n| {
                let order = order.clone();
                spawn(async move { order.borrow_mut().push(n) })
            })
            .collect();
        for task in tasks {
            task.await;
        }
        order.take()
    })
}

#[test]
fn a_seed_replays_its_schedule_and_others_differ() {
    assert_eq!(schedule(3), schedule(3));
    assert!((0..20).any(|seed| schedule(seed) != schedule(3)));
}

#[test]
fn semaphores_are_fair_and_survive_dropped_waiters() {
    Executor::simulated(5).block_on(async {
        let semaphore = Semaphore::new(4);
        let first = semaphore.acquire(3).await;
        assert!(semaphore.try_acquire(2).is_none());
        // A waiter that gives up must not block the one behind it.
        assert!(timeout(Duration::from_secs(1), semaphore.acquire(4)).await.is_none());
        let second = semaphore.acquire(1).await;
        drop((first, second));
        // A request for more than the total is granted when everything is free.
        drop(semaphore.acquire(100).await);
    });
}

#[test]
fn events_and_oneshots_wake() {
    Executor::simulated(5).block_on(async {
        let event = Rc::new(Event::new());
        let (sender, receiver) = oneshot();
        let waiting = event.clone();
        let task = spawn(async move {
            waiting.wait().await;
            sender.send(9);
        });
        yield_now().await;
        while !task.is_finished() {
            event.notify();
            yield_now().await;
        }
        assert_eq!(receiver.await, Some(9));
        let (sender, receiver) = oneshot::<u32>();
        drop(sender);
        assert_eq!(receiver.await, None);
    });
}

#[test]
fn work_that_waits_for_other_work_has_threads_enough() {
    let executor = Executor::new().unwrap();
    let met = std::sync::Arc::new(std::sync::Barrier::new(5));
    executor.block_on(async move {
        let all: Vec<_> = (0..5)
            .map(|_| {
                let met = met.clone();
                spawn(unblock(move || met.wait().is_leader()))
            })
            .collect();
        let mut leaders = 0;
        for one in all {
            leaders += usize::from(one.await == Some(true));
        }
        assert_eq!(leaders, 1);
    });
}

#[test]
fn work_outside_runs_beside_the_pool() {
    let name = || std::thread::current().name().map(str::to_owned);
    assert_eq!(crate::start_unconfined_pool(|| 5).unwrap(), 5);
    let executor = Executor::new().unwrap();
    let names = executor.block_on(async move {
        [crate::unconfined(name).await, crate::connecting(name).await, unblock(name).await]
    });
    assert_eq!(names, ["opener", "connector", "worker"].map(|name| Some(name.to_owned())));
}

#[test]
fn work_that_blocks_runs_elsewhere() {
    let executor = Executor::new().unwrap();
    let here = std::thread::current().id();
    let there = executor.block_on(unblock(move || std::thread::current().id()));
    assert_ne!(here, there);
}
