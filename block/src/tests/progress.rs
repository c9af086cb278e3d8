//! The exact progress of a stream when something fails, and whether its read or its write failed.

use super::*;
use crate::disk::job::{JobEvent, JobOptions, Operation, Status};
use crate::job::stream::StreamOptions;
use crate::{ErrorAction, OnError};

const SIZE: u64 = 4 << 20;
/// The places where the unreadable range begins: at a boundary of copies, within one, and within a cluster.
const PLACES: [u64; 4] = [512 << 10, 3 << 19, (2 << 20) + (64 << 10), (1 << 20) + 4096];

type Told = Rc<RefCell<Vec<(crate::disk::job::Info, JobEvent)>>>;

async fn stage(bad: u64) -> (Rc<SimDir>, Rc<Disk>, Told, Kind) {
    let files = SimDir::new();
    let base = files.add("base", vec![7; SIZE as usize]);
    let kind = create_over(&files, "leaf", "base", Kind::Raw).await;
    let leaf = chain::open(&*files, "leaf", kind, true).await.unwrap();
    let told: Told = Rc::default();
    let sink = told.clone();
    let disk = Disk::new("virtio0", leaf, false, files.clone(), move |event| {
        if let DiskEvent::Job { job, what } = event {
            sink.borrow_mut().push((job, what));
        }
    });
    base.set_faults(Faults { bad: Some((bad, bad + 1)), delay: 100, ..Faults::default() });
    files.get("leaf").unwrap().set_faults(Faults { delay: 100, ..Faults::default() });
    (files, disk, told, kind)
}

fn errors(told: &Told) -> Vec<(u64, Operation, ErrorAction)> {
    let told = told.borrow();
    let error = |(job, what): &(crate::disk::job::Info, JobEvent)| match what {
        JobEvent::Error(operation, action) => Some((job.offset, *operation, *action)),
        _ => None,
    };
    told.iter().filter_map(error).collect()
}

/// Checks that everything was copied up to the start of the read, or of the cluster, that failed.
fn assert_exact(offset: u64, bad: u64, disk: &Disk) {
    let unit = disk.leaf().cluster_size().max(512 << 10);
    assert!(offset <= bad && bad - offset < unit, "{offset} of {bad}");
    if bad.is_multiple_of(unit) {
        assert_eq!(offset, bad);
    }
}

#[test]
fn a_read_that_fails_is_told_where_it_failed() {
    seeds(80, |seed| async move {
        let bad = PLACES[seed as usize % 4];
        let (files, disk, told, _) = stage(bad).await;
        let on_error =
            [OnError::Report, OnError::Stop, OnError::Ignore, OnError::Enospc][seed as usize / 4 % 4];
        let options = JobOptions { on_error, auto_dismiss: false, ..JobOptions::new("job0") };
        disk.start_stream(StreamOptions::default(), options).await.unwrap();
        let job = disk.job("job0").unwrap();
        while !matches!(job.info().status, Status::Paused | Status::Concluded) {
            executor::sleep(Duration::from_micros(50)).await;
        }
        let (offset, operation, action) = errors(&told)[0];
        assert_eq!(operation, Operation::Read);
        assert_exact(offset, bad, &disk);
        // Everything before it is in the leaf.
        let leaf = disk.leaf();
        assert_eq!(leaf.next_absent(0..SIZE, 1).await.unwrap().unwrap().start, offset);
        match on_error {
            OnError::Stop => {
                assert_eq!((action, job.info().status), (ErrorAction::Stop, Status::Paused));
                assert_eq!(job.info().offset, offset);
                files.get("base").unwrap().set_faults(Faults { delay: 100, ..Faults::default() });
                job.resume().unwrap();
                wait_for_stream(&disk).await;
                assert_eq!((job.info().offset, job.info().error), (SIZE, None));
            }
            OnError::Ignore => {
                // All but the part that failed, which the error at the end reports.
                assert_eq!((job.info().offset, job.info().error.is_some()), (SIZE, true));
                let absent = leaf.next_absent(0..SIZE, u64::MAX).await.unwrap().unwrap();
                assert!(absent.contains(&bad) && absent.end - absent.start <= 1 << 20, "{absent:?}");
                assert!(leaf.next_absent(absent.end..SIZE, 1).await.unwrap().is_none());
                assert_eq!(errors(&told).len(), 1, "{:?}", errors(&told));
            }
            _ => {
                assert_eq!((action, job.info().offset), (ErrorAction::Report, offset));
                assert!(job.info().error.is_some());
            }
        }
    });
}

#[test]
fn a_write_that_fails_is_told_where_it_failed() {
    seeds(40, |_| async {
        let (files, disk, told, kind) = stage(u64::MAX / 2).await;
        let leaf = files.get("leaf").unwrap();
        let room = 3 << 20;
        let limit = Some(leaf.content().len() as u64 + room);
        leaf.set_faults(Faults { limit, delay: 100, ..Faults::default() });
        let options =
            JobOptions { on_error: OnError::Enospc, auto_dismiss: false, ..JobOptions::new("job0") };
        disk.start_stream(StreamOptions::default(), options).await.unwrap();
        let job = disk.job("job0").unwrap();
        while job.info().status != Status::Paused {
            executor::sleep(Duration::from_micros(50)).await;
        }
        let (offset, operation, action) = errors(&told)[0];
        assert_eq!((operation, action), (Operation::Write, ErrorAction::Stop));
        assert!(offset <= room, "{offset} with room for {room}");
        assert_eq!(disk.leaf().next_absent(0..SIZE, 1).await.unwrap().unwrap().start, offset);
        leaf.set_faults(Faults { delay: 100, ..Faults::default() });
        job.resume().unwrap();
        wait_for_stream(&disk).await;
        assert_eq!((job.info().offset, job.info().error), (SIZE, None));
        disk.close().await.unwrap();
        check(&files, "leaf", kind, model::Leaks::Allowed);
    });
}
