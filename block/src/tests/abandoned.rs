//! Requests whose callers go away half way, while others continue.

use super::*;

/// Puts load on a disk over a base: three tasks of the guest that drop their requests, copies, and
/// drains in between.
async fn dropped_requests(files: &Rc<SimDir>, guest: &Rc<Guest>, disk: &Rc<Disk>) {
    for name in ["base", "leaf"] {
        files.get(name).unwrap().set_faults(Faults { delay: 200, ..Faults::default() });
    }
    disk.set_copy_on_read(random(2) == 0);
    if random(2) == 0 {
        stream_all(disk).await.unwrap();
    }
    let workers: Vec<_> = (0..3).map(|_| spawn(guest.clone().work_and_drop(60))).collect();
    for _ in 0..3 {
        executor::sleep(Duration::from_micros(random(5000))).await;
        drained(disk, guest).await;
    }
    for worker in workers {
        worker.await;
    }
    wait_for_stream(disk).await;
    drained(disk, guest).await;
}

/// Checks that no request continues while the gate is closed, not even one that nobody waits for.
async fn drained(disk: &Rc<Disk>, guest: &Guest) {
    let _closed = disk.drain(DEADLINE).await.unwrap();
    guest.is_drained();
    let content = async || {
        let buf = Buf::new(disk.size() as usize);
        disk.leaf().read(0, buf.clone()).await.unwrap();
        buf.to_vec()
    };
    let before = content().await;
    executor::sleep(Duration::from_millis(1)).await;
    assert!(content().await == before, "the disk changed after a drain");
}

#[test]
fn dropped_requests_come_to_their_end_and_harm_nobody() {
    seeds(200, |_| async {
        let (files, content, kind) = leaf_over_base(300).await;
        let (disk, _) = open(&files, "leaf", kind).await;
        let guest = Guest::new(disk.clone(), content);
        dropped_requests(&files, &guest, &disk).await;
        guest.verify().await;
        // The dropped requests have ended: no sector changes by itself any more.
        guest.clone().work(20).await;
        guest.verify().await;
        disk.close().await.unwrap();
        drop(disk);
        check(&files, "leaf", kind, model::Leaks::None);
        let (disk, _) = open(&files, "leaf", kind).await;
        guest.verify_on(&disk).await;
    });
}

#[test]
fn a_power_cut_after_dropped_requests_loses_nothing_that_was_flushed() {
    seeds(100, |_| async {
        let (files, content, kind) = leaf_over_base(300).await;
        let (disk, _) = open(&files, "leaf", kind).await;
        let guest = Guest::new(disk.clone(), content);
        dropped_requests(&files, &guest, &disk).await;
        files.cut_after(1 + random(60));
        let workers: Vec<_> = (0..3).map(|_| spawn(guest.clone().work_until_error(40))).collect();
        for worker in workers {
            worker.await;
        }
        let after = files.after_power_cut();
        check_after_power_cut(&after, kind, &guest).await;
    });
}
