//! Disks large enough that refcount tables have to grow, and refcounts past a file's end.

use super::*;
use crate::Buf;

/// Writes everything in parts of `len` bytes, several at once and out of order, and flushes now and then.
async fn fill(disk: &Rc<Disk>, content: &[u8], len: usize) -> crate::Result<()> {
    let mut parts: Vec<_> = content.chunks(len).enumerate().collect();
    while !parts.is_empty() {
        let some: Vec<_> =
            (0..4.min(parts.len())).map(|_| parts.swap_remove(random(parts.len() as u64) as usize)).collect();
        let writes = some.into_iter().map(|(n, part)| async move {
            let ticket = disk.enter().await;
            disk.write(&ticket, (n * len) as u64, Buf::from_bytes(part)).await
        });
        for result in futures_util::future::join_all(writes).await {
            result?;
        }
        if random(8) == 0 {
            let ticket = disk.enter().await;
            disk.flush(&ticket).await?;
        }
    }
    Ok(())
}

fn noise(len: usize) -> Vec<u8> {
    (0..len / 8).flat_map(|_| executor::random().to_le_bytes()).collect()
}

#[test]
fn refcount_tables_grow() {
    seeds(7, |seed| async move {
        let files = folder();
        let refcount_bits = 1 << (seed % 7);
        // With counts of 64 bits a table of one cluster counts 2 MiB.
        let size = if refcount_bits >= 16 { 20 << 20 } else { 4 << 20 };
        let options =
            Create { size: Some(size as u64), refcount_bits: Some(refcount_bits), ..options(512, false) };
        image::create(&*files, "disk", Kind::Qcow2, &options).await.unwrap();
        let content = noise(size);
        let (disk, _) = open(&files, "disk", Kind::Qcow2).await;
        fill(&disk, &content, 200 << 10).await.unwrap();
        disk.close().await.unwrap();
        drop(disk);
        model::check_refcounts(&files.get("disk").unwrap().content(), model::Leaks::Allowed);
        let (disk, _) = open(&files, "disk", Kind::Qcow2).await;
        let guest = Guest::new(disk.clone(), content);
        guest.verify().await;
        guest.clone().work(10).await;
        disk.close().await.unwrap();
        model::check_refcounts(&files.get("disk").unwrap().content(), model::Leaks::Allowed);
    });
}

#[test]
fn a_power_cut_while_refcount_tables_grow() {
    seeds(16, |_| async move {
        let files = folder();
        let size = 6 << 20;
        let options = Create { size: Some(size as u64), refcount_bits: Some(64), ..options(512, false) };
        image::create(&*files, "disk", Kind::Qcow2, &options).await.unwrap();
        files.get("disk").unwrap().set_faults(Faults { delay: 50, ..Faults::default() });
        let (disk, _) = open(&files, "disk", Kind::Qcow2).await;
        files.cut_after(1 + random(400));
        let _ = fill(&disk, &noise(size), 100 << 10).await;
        let _ = disk.close().await;
        let after = files.after_power_cut();
        model::check_refcounts(&after.get("disk").unwrap().content(), model::Leaks::Allowed);
        // The image can be written again, whatever is counted past the file's end.
        let (disk, _) = open(&after, "disk", Kind::Qcow2).await;
        let content = noise(size);
        fill(&disk, &content, 200 << 10).await.unwrap();
        disk.close().await.unwrap();
        Guest::new(disk, content).verify().await;
        model::check_refcounts(&after.get("disk").unwrap().content(), model::Leaks::Allowed);
    });
}
