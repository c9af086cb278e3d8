//! Targets of mirrors that are lost and return.

use std::time::Duration;

use executor::spawn;

use super::model::random;
use super::stage::Stage;
use super::{close_and_check, options};
use crate::Kind;
use crate::image::{self, Create};
use crate::job::JobOptions;
use crate::job::mirror::{Copies, CopyMode, MirrorOptions, MirrorTarget, MirrorTuning, Sync};
use crate::sim::{Faults, Nature};

/// Makes a target on an export of fixed size, which is full of noise before.
async fn export(stage: &Stage) -> MirrorTarget {
    let format = [Kind::Raw, Kind::Qcow2][random(2) as usize];
    let room = if format == Kind::Raw { 0 } else { stage.disk.size() + (4 << 20) };
    let file = stage.files.add("target", vec![0xaa; (stage.disk.size() + room) as usize]);
    file.set_nature(Nature { fixed: true, alignment: 1, ..file.nature() });
    if format == Kind::Qcow2 {
        let create = Create { size: Some(stage.disk.size()), ..options(65536, false) };
        image::create(&*stage.files, "target", format, &create).await.unwrap();
    }
    MirrorTarget { name: "target".into(), format, existing: true, node_name: Some("copy".into()) }
}

#[test]
fn a_target_whose_server_is_restarted_is_copied_again_where_it_was_not_flushed() {
    super::seeds(150, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, .. } = &stage;
        let target = export(&stage).await;
        let format = target.format;
        let workers: Vec<_> = (0..2).map(|_| spawn(guest.clone().work(120))).collect();
        let job = stage.start(target, Sync::Full, JobOptions::new("mirror")).await.unwrap();
        let server = files.get("target").unwrap();
        server.set_faults(Faults { delay: 200, ..Faults::default() });
        for _ in 0..1 + random(3) {
            for _ in 0..random(60) {
                // Takes time, in which the job goes on.
                disk.leaf().read(0, crate::Buf::new(512)).await.unwrap();
            }
            server.restart();
        }
        assert!(log.ready().await, "{:?}", job.info());
        if random(2) == 0 {
            server.restart();
        }
        job.complete().unwrap();
        assert_eq!(log.ended(&job).await, None);
        assert_eq!((disk.leaf().name(), &*disk.leaf().node_name()), ("target", "copy"));
        for worker in workers {
            worker.await;
        }
        guest.verify().await;
        close_and_check(files, "target", format, disk.clone(), guest).await;
    });
}

#[test]
fn a_target_whose_server_returns_late_is_waited_for() {
    super::seeds(60, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, .. } = &stage;
        let target = export(&stage).await;
        let job = stage.start(target, Sync::Full, JobOptions::new("mirror")).await.unwrap();
        let server = files.get("target").unwrap();
        server.set_faults(Faults { delay: 200, ..Faults::default() });
        if random(2) == 0 {
            assert!(log.ready().await);
            guest.clone().work(10).await;
        }
        for _ in 0..2 {
            server.restart_slowly(Duration::from_millis(random(4000)));
            // Their flushes meet the loss.
            guest.clone().work(20).await;
        }
        assert!(log.ready().await, "{:?}", job.info());
        job.complete().unwrap();
        assert_eq!(log.ended(&job).await, None);
        assert_eq!(disk.leaf().name(), "target");
        guest.verify().await;
        disk.close().await.unwrap();
    });
}

#[test]
fn a_target_has_everything_when_it_is_ready_whatever_was_lost_before() {
    super::seeds(150, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, .. } = &stage;
        let target = export(&stage).await;
        let mirror = MirrorOptions {
            target,
            sync: Sync::Full,
            mode: CopyMode::WriteBlocking,
            copies: Copies::default(),
            witness: None,
            tuning: MirrorTuning::default(),
        };
        disk.start_mirror(mirror, JobOptions::new("mirror")).await.unwrap();
        let server = files.get("target").unwrap();
        // Its flushes are slow: the guest writes meanwhile.
        server.set_faults(Faults { delay: 2000, ..Faults::default() });
        let workers: Vec<_> = (0..2).map(|_| spawn(guest.clone().work(400))).collect();
        // Until it has happened in the last flush, too.
        let mut restarts = 0;
        while restarts < 20 && log.at_ready().is_none() {
            executor::sleep(Duration::from_micros(random(12_000))).await;
            server.restart();
            restarts += 1;
        }
        assert!(log.ready().await);
        let info = log.at_ready().unwrap();
        assert_eq!(info.offset, info.len, "something is still to be copied");
        for worker in workers {
            worker.await;
        }
        guest.verify().await;
        disk.close().await.unwrap();
    });
}
