//! Somebody who follows a disk's map by its changes has the map that somebody sees who asks for all of it.

use std::cell::Cell;

use super::*;
use crate::disk::clusters::Question;
use crate::disk::clusters::tests::decode;

/// The bytes of the disk's cells, as a client keeps them.
#[derive(Default)]
struct Follower {
    since: Option<u64>,
    cells: Vec<u8>,
}

impl Follower {
    /// Asks for what has changed, in parts of some cells.
    async fn follow(&mut self, disk: &Disk) {
        let (since, mut first, mut begun) = (self.since, 0, None);
        loop {
            let cells = 1 + random(300);
            let question = Question { since, first, cells: Some(cells), cell_size: Some(512) };
            let map = disk.block_map(question).await.unwrap();
            // The generation of the first part: later parts may know of more.
            begun.get_or_insert(map.generation);
            self.cells.resize(map.total as usize, 0);
            for (at, len, byte) in decode(&map, first) {
                self.cells[at as usize..(at + len) as usize].fill(byte);
            }
            first += cells;
            if first >= map.total {
                break;
            }
        }
        self.since = begun;
    }
}

#[test]
fn who_follows_the_changes_has_the_whole_map() {
    seeds(150, |_| async {
        let (files, content, kind) = leaf_over_base(500).await;
        create_qcow2_over(&files, "next", "leaf", kind).await;
        files.get("base").unwrap().set_faults(Faults { delay: 100, ..Faults::default() });
        let (disk, _) = open(&files, "leaf", kind).await;
        disk.set_copy_on_read(random(2) == 0);
        let guest = Guest::new(disk.clone(), content);
        let working = Rc::new(Cell::new(2));
        for _ in 0..2 {
            let (guest, working) = (guest.clone(), working.clone());
            spawn(async move {
                guest.work(40).await;
                working.set(working.get() - 1);
            });
        }
        let mut follower = Follower::default();
        follower.follow(&disk).await;
        if random(3) == 0 {
            let target = Target { name: "next".into(), format: Some(Kind::Qcow2), notify: false };
            disk.prepare_switch(&target).await.unwrap().commit(DEADLINE).await.unwrap();
        }
        stream_all(&disk).await.unwrap();
        while working.get() > 0 || !disk.query_stream().is_empty() {
            // In the simulation's time: a client asks at any moment.
            executor::sleep(Duration::from_micros(random(2000))).await;
            follower.follow(&disk).await;
        }
        follower.follow(&disk).await;
        let mut fresh = Follower::default();
        fresh.follow(&disk).await;
        assert_eq!(follower.cells, fresh.cells);
        // Nothing is absent any more, or being populated. Old versions of qcow2 have no zeros but absence.
        assert!(fresh.cells.iter().all(|byte| ![1, 4].contains(&(byte & 7))), "{:?}", fresh.cells);
        guest.verify().await;
    });
}
