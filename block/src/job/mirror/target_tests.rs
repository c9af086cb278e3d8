//! The target alone, in the simulator.

use std::time::Duration;

use executor::{Executor, spawn};

use super::*;
use crate::image::chain;
use crate::sim::{Faults, SimDir};
use crate::{Buf, Kind};

/// Three guests flush: one flush works for the second and the third, so that the third ends without one of
/// its own. A copy that waits for room meanwhile goes on all the same.
#[test]
fn the_end_of_every_flush_makes_room() {
    const MOST: u64 = 1 << 20;
    for seed in 0..40 {
        Executor::simulated(seed).block_on(async {
            let files = SimDir::new();
            files.add("target", vec![0; 1 << 20]);
            let node = chain::open(&*files, "target", Kind::Raw, true).await.unwrap();
            let target = Rc::new(Target::new(node.clone(), None, Bitmap::new(1 << 20, 65536)));
            node.write(0, Buf::from_bytes(&[1; 512])).await.unwrap();
            files.get("target").unwrap().set_faults(Faults { delay: 100_000, ..Faults::default() });
            let flushes: Vec<_> = (0..3)
                .map(|_| {
                    let target = target.clone();
                    spawn(async move { assert!(target.flush().await.unwrap().is_none()) })
                })
                .collect();
            let copying = spawn({
                let target = target.clone();
                async move {
                    // It comes to wait in the second flush.
                    while target.begun.get() < 2 {
                        // In the simulation's time.
                        executor::sleep(Duration::from_millis(1)).await;
                    }
                    target.wrote(&(0..MOST));
                    target.room(MOST).await;
                }
            });
            let ended = async {
                copying.await;
                for flush in flushes {
                    flush.await;
                }
            };
            executor::timeout(Duration::from_secs(60), ended).await.expect("the copy goes on");
        });
    }
}
