//! Long requests of clients: they are done in pieces, through the same gate as the guest's.

use block::disk::{MOST_INSIDE, PIECE};
use block::sim::SimDir;
use block::{Disk, Kind, chain};
use executor::{Executor, spawn, yield_now};

use super::*;

const LEN: usize = 40 << 20;

async fn export() -> (Rc<Disk>, Rc<DiskExport<Disk>>) {
    let files = SimDir::new();
    files.add("disk", vec![7; LEN]);
    let leaf = chain::open(&*files, "disk", Kind::Raw, true).await.unwrap();
    let disk = Disk::new("disk", leaf, false, files, |_| {});
    (disk.clone(), Rc::new(DiskExport { disk, writethrough: false }))
}

#[test]
fn what_is_longer_than_a_piece_is_all_done() {
    Executor::simulated(1).block_on(async {
        let (_disk, export) = export().await;
        let (offset, len) = ((1 << 20) + 512, 33 << 20);
        let bytes: Vec<u8> = (0..len).map(|at: usize| (at / 4096 + at) as u8).collect();
        let mut model = vec![7; LEN];
        model[offset..offset + len].copy_from_slice(&bytes);
        assert!(len as u64 > 2 * PIECE);
        export.write(offset as u64, Buf::from_bytes(&bytes)).await.unwrap();
        let all = Buf::new(LEN);
        export.read(0, all.clone()).await.unwrap();
        assert!(all.to_vec() == model);
        model[4096..4096 + len].fill(0);
        export.write_zeroes(4096, len as u64, true).await.unwrap();
        export.read(0, all.clone()).await.unwrap();
        assert!(all.to_vec() == model);
        export.trim(0, LEN as u64).await.unwrap();
        // The disk checks the bounds of each piece.
        assert!(export.trim(1 << 20, LEN as u64).await.is_err());
    });
}

#[test]
fn clients_wait_while_as_much_is_in_flight_as_may_be() {
    Executor::simulated(2).block_on(async {
        let (disk, export) = export().await;
        let mut guest = disk.try_enter().unwrap();
        guest.carry(MOST_INSIDE);
        let client = spawn({
            let export = export.clone();
            async move { export.trim(0, LEN as u64).await }
        });
        for _ in 0..100 {
            yield_now().await;
        }
        assert!(!client.is_finished());
        drop(guest);
        client.await.unwrap().unwrap();
    });
}
