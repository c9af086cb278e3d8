//! The queue: its order, its window, and what waits for it.

use std::time::Duration;

use executor::Executor;

use super::*;

fn data(len: usize, byte: u8) -> Buf {
    Buf::from_bytes(&vec![byte; len])
}

async fn push(behind: &Rc<Behind>, offset: u64, len: usize, byte: u8) {
    let room = Rc::new(behind.room(len as u64).await.unwrap());
    behind.push(offset, &data(len, byte), &room);
}

/// Returns true if `what` waits for something that nobody does here.
async fn waits<T>(what: impl Future<Output = T>) -> bool {
    executor::timeout(Duration::from_secs(1), what).await.is_none()
}

fn queue(window: u64) -> Rc<Behind> {
    let behind = Behind::new();
    behind.set_window(window);
    behind
}

#[test]
fn writes_of_one_granule_go_one_after_the_other_and_neighbours_together() {
    Executor::simulated(1).block_on(async {
        let behind = queue(1 << 20);
        push(&behind, 0, 4096, 1).await;
        push(&behind, 4096, 4096, 2).await;
        push(&behind, 0, 512, 3).await;
        // Two granules.
        push(&behind, 2 * GRANULE - 512, 1024, 4).await;
        let first = behind.take().unwrap();
        assert_eq!(first.range, 0..8192);
        assert_eq!(first.data().to_vec(), [vec![1; 4096], vec![2; 4096]].concat());
        let second = behind.take().unwrap();
        assert_eq!(second.range, 2 * GRANULE - 512..2 * GRANULE);
        let third = behind.take().unwrap();
        assert_eq!(third.range, 2 * GRANULE..2 * GRANULE + 512);
        assert!(behind.take().is_none(), "an earlier write to the granule runs");
        // It is younger than what waits there.
        push(&behind, 7 * GRANULE, 512, 5).await;
        drop(first);
        let last = behind.take().unwrap();
        assert_eq!((last.range.clone(), last.data().to_vec()), (0..512, vec![3; 512]));
        drop((second, third));
        assert!(!behind.is_empty());
        assert!(behind.used() > 0);
        drop(last);
        drop(behind.take());
        assert!(behind.is_empty());
        assert_eq!(behind.used(), 0);
    });
}

#[test]
fn the_queue_takes_no_more_than_its_window_and_a_closed_one_keeps_nobody() {
    Executor::simulated(1).block_on(async {
        let behind = queue(10_000);
        push(&behind, 0, 8192, 1).await;
        assert!(waits(behind.room(8192)).await);
        // Small writes do not pass a large one that waits.
        let large = executor::spawn({
            let behind = behind.clone();
            async move { behind.room(1 << 20).await.is_some() }
        });
        // All others have come as far as they can.
        executor::sleep(Duration::from_micros(1)).await;
        assert!(waits(behind.room(512)).await);
        drop(behind.take());
        assert_eq!(large.await, Some(true), "one that is larger than the window goes alone");
        push(&behind, 0, 8192, 1).await;
        let waiting = executor::spawn({
            let behind = behind.clone();
            async move { behind.room(8192).await.is_none() }
        });
        // All others have come as far as they can.
        executor::sleep(Duration::from_micros(1)).await;
        behind.set_window(0);
        assert_eq!(waiting.await, Some(true));
        assert!(behind.room(512).await.is_none());
        assert!(!behind.is_empty(), "what was queued stays");
        behind.close();
        assert!(behind.is_empty() && behind.used() == 0);
    });
}

#[test]
fn whoever_waits_for_the_queue_waits_for_what_was_there_before() {
    Executor::simulated(1).block_on(async {
        let behind = queue(1 << 20);
        push(&behind, 0, 512, 1).await;
        push(&behind, 4 * GRANULE, 512, 1).await;
        behind.settled(&(GRANULE..2 * GRANULE)).await;
        assert!(waits(behind.settled(&(GRANULE / 2..GRANULE))).await);
        assert!(waits(behind.all_settled()).await);
        let waiting = executor::spawn({
            let behind = behind.clone();
            async move {
                futures_util::future::join(behind.settled(&(0..512)), behind.all_settled()).await;
            }
        });
        // All others have come as far as they can.
        executor::sleep(Duration::from_micros(1)).await;
        push(&behind, 1024, 512, 2).await;
        push(&behind, 9 * GRANULE, 512, 2).await;
        let (first, other) = (behind.take().unwrap(), behind.take().unwrap());
        assert!(behind.take().is_none(), "newer writes wait meanwhile");
        drop((first, other));
        waiting.await.unwrap();
        assert!(behind.take().is_some());
        assert!(!behind.is_empty());
    });
}
