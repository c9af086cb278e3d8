//! The gate counts the bytes that the requests inside move, so that a drain never has much to wait for.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use executor::{Executor, random, spawn, yield_now};

use super::open;
use crate::disk::switch::DEADLINE;
use crate::disk::{MOST_INSIDE, PIECE, first_piece};
use crate::sim::{Faults, SimDir};
use crate::{Disk, Kind};

async fn disk() -> (Rc<SimDir>, Rc<Disk>) {
    let files = SimDir::new();
    files.add("base", vec![7; 32 << 20]);
    let (disk, _) = open(&files, "base", Kind::Raw).await;
    (files, disk)
}

#[test]
fn what_is_more_than_may_be_inside_waits_outside() {
    Executor::simulated(1).block_on(async {
        let (_files, disk) = disk().await;
        let mut inside = Vec::new();
        while let Some(mut ticket) = disk.try_enter() {
            ticket.carry(PIECE);
            inside.push(ticket);
        }
        assert_eq!(inside.len() as u64, MOST_INSIDE / PIECE);
        let waiting = spawn({
            let disk = disk.clone();
            async move { disk.enter().await }
        });
        for _ in 0..10 {
            yield_now().await;
        }
        assert!(disk.try_enter().is_none());
        inside.pop();
        let mut ticket = waiting.await.expect("it goes in when another is out");
        ticket.carry(0);
        // A request that moves nothing (a flush) takes no room from others, and a ticket can lower its
        // number.
        let mut other = disk.try_enter().expect("there is room");
        other.carry(u64::MAX);
        assert!(disk.try_enter().is_none());
        other.carry(0);
        assert!(disk.try_enter().is_some());
        drop((other, ticket, inside));
        disk.drain(DEADLINE).await.expect("nobody is inside");
    });
}

/// However many requests there are, a drain waits for no more than may be inside, and one piece.
#[test]
fn a_drain_waits_for_no_more_than_may_be_inside() {
    super::seeds(4, async |_| {
        let (files, disk) = disk().await;
        let file = files.get("base").unwrap();
        file.set_faults(Faults { delay: 100_000, ..Faults::default() });
        let zeroed = Rc::new(Cell::new(0));
        // 256 clients that zero 1 GiB each.
        let tasks: Vec<_> = (0..256)
            .map(|_| {
                let (disk, zeroed) = (disk.clone(), zeroed.clone());
                spawn(async move {
                    let most = disk.zero_piece();
                    for _ in 0..32 {
                        let (size, mut at) = (disk.size(), 0);
                        while at < size {
                            let len = first_piece(at, size - at, most);
                            let mut ticket = disk.enter().await;
                            ticket.carry(len);
                            disk.write_zeroes(&ticket, at, len, true).await.unwrap();
                            zeroed.set(zeroed.get() + len);
                            at += len;
                        }
                    }
                })
            })
            .collect();
        executor::sleep(Duration::from_micros(random() % 1_000_000)).await;
        let before = zeroed.get();
        let closed = disk.drain(DEADLINE).await.expect("in time");
        let waited = zeroed.get() - before;
        assert!(waited <= MOST_INSIDE + PIECE, "{waited} bytes");
        assert!(tasks.iter().all(|task| !task.is_finished()), "there is always more");
        tasks.iter().for_each(executor::JoinHandle::cancel);
        drop(closed);
    });
}

/// Two jobs that share no image may need the disk drained at once.
#[test]
fn a_gate_that_two_have_closed_is_opened_by_the_second() {
    Executor::simulated(1).block_on(async {
        let (_files, disk) = disk().await;
        let first = disk.drain(DEADLINE).await.unwrap();
        let second = disk.drain(DEADLINE).await.unwrap();
        drop(first);
        assert!(disk.try_enter().is_none());
        drop(second);
        assert!(disk.try_enter().is_some());
    });
}
