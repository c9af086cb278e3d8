//! Switches of several disks at one point in time, requested by several clients at once: on storage that
//! holds requests for longer than a drain may take, by clients that try again at once, and by clients
//! that give up.

use futures_util::future::join_all;

use super::*;
use crate::DiskHandle;
use crate::disk::step::Step;

const SIZE: usize = 4 << 10;
/// Maximum duration of a request in microseconds; the deadline of a drain may be shorter.
const SLOW: u64 = 9_000_000;

/// The switches in order: the disk, and who switched it.
type Log = Rc<RefCell<Vec<(usize, u64)>>>;

struct Rig {
    files: Rc<SimDir>,
    handles: Vec<DiskHandle>,
    disks: Vec<Rc<Disk>>,
    log: Log,
}

impl Rig {
    async fn new(count: usize) -> Rc<Self> {
        let files = SimDir::new();
        let mut disks = Vec::new();
        for index in 0..count {
            let name = format!("start{index}");
            files.add(&name, vec![1; SIZE]).set_faults(Faults { delay: SLOW, ..Faults::default() });
            let leaf = chain::open(&*files, &name, Kind::Raw, true).await.unwrap();
            disks.push(Disk::new(&format!("virtio{index}"), leaf, false, files.clone(), |_| {}));
        }
        let handles = disks.iter().map(Disk::handle).collect();
        Rc::new(Rig { files, handles, disks, log: Rc::default() })
    }

    /// Prepares and closes all disks; `None` if one refused.
    async fn closed(&self, by: u64, deadline: Duration) -> Option<Vec<Step>> {
        let mut steps = Vec::new();
        let mut failed = false;
        for (index, handle) in self.handles.iter().enumerate() {
            let name = format!("{index} of {by}");
            assert!(by % 100_000 < 50_000, "a client never has its way");
            self.files.add(&name, vec![2; SIZE]).set_faults(Faults { delay: SLOW, ..Faults::default() });
            let target = Target { name, format: Some(Kind::Raw), notify: true };
            match Step::prepare(handle, move |disk| async move { disk.prepare_switch(&target).await }).await {
                Ok(step) => steps.push(step),
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::InUse, "{e}");
                    failed = true;
                    break;
                }
            }
        }
        if !failed {
            for closed in join_all(steps.iter().map(|step| step.close(deadline))).await {
                if let Err(e) = closed {
                    assert_eq!(e.kind(), ErrorKind::TimedOut, "{e}");
                    failed = true;
                }
            }
        }
        if failed {
            join_all(steps.into_iter().map(Step::abandon)).await;
            return None;
        }
        Some(steps)
    }

    async fn commit(&self, by: u64, steps: Vec<Step>) {
        let commits = steps.into_iter().enumerate().map(|(index, step)| async move {
            step.commit().await.unwrap();
            self.log.borrow_mut().push((index, by));
        });
        join_all(commits).await;
    }

    /// Runs a client that tries until it has succeeded once, and often gives up half way before.
    async fn client(self: Rc<Self>, number: u64) {
        for attempt in 0.. {
            let by = number * 100_000 + attempt;
            let patience = Duration::from_micros(1 + random(20 * SLOW));
            let deadline = Duration::from_micros(1 + random(SLOW));
            match executor::timeout(patience, self.closed(by, deadline)).await {
                Some(Some(steps)) if random(3) > 0 => return self.commit(by, steps).await,
                // Dropped with its gates closed, or in the middle of anything, or refused.
                _ => {}
            }
            // Tries again, often before the failure is cleaned up.
            let pause = if random(2) == 0 { 1000 } else { SLOW };
            executor::sleep(Duration::from_micros(random(pause))).await;
        }
    }

    async fn guest(self: Rc<Self>, index: usize, requests: u64) {
        let disk = &self.disks[index];
        for _ in 0..requests {
            let ticket = disk.enter().await;
            disk.read(&ticket, 0, Buf::new(512)).await.unwrap();
            drop(ticket);
            executor::sleep(Duration::from_micros(random(SLOW))).await;
        }
    }
}

#[test]
fn clients_at_once_switch_all_disks_or_none() {
    seeds(200, |_| async {
        let rig = Rig::new(1 + random(3) as usize).await;
        let guests: Vec<_> =
            (0..2 * rig.disks.len()).map(|n| spawn(rig.clone().guest(n % rig.disks.len(), 20))).collect();
        let clients: Vec<_> = (0..2 + random(3)).map(|n| spawn(rig.clone().client(n))).collect();
        let count = clients.len();
        for task in clients.into_iter().chain(guests) {
            task.await.unwrap();
        }
        // Each client has switched each disk once, and all disks saw them in the same order.
        let order = |index: usize| -> Vec<u64> {
            rig.log.borrow().iter().filter(|(of, _)| *of == index).map(|(_, by)| *by).collect()
        };
        assert_eq!(order(0).len(), count);
        for (index, disk) in rig.disks.iter().enumerate() {
            assert_eq!(order(index), order(0));
            assert!(disk.steps.borrow().is_empty(), "a step was left behind");
            assert_eq!(disk.leaf().name(), format!("{index} of {}", order(0)[count - 1]));
            disk.close().await.unwrap();
        }
    });
}

#[test]
fn a_step_out_of_its_order_is_an_error() {
    Executor::simulated(1).block_on(async {
        let rig = Rig::new(1).await;
        rig.files.add("other", vec![2; SIZE]);
        let target = Target { name: "other".into(), format: Some(Kind::Raw), notify: true };
        let prepare = move |disk: Rc<Disk>| async move { disk.prepare_switch(&target).await };
        let step = Step::prepare(&rig.handles[0], prepare.clone()).await.unwrap();
        assert_eq!(step.commit().await.unwrap_err().kind(), ErrorKind::NotActive);
        let step = Step::prepare(&rig.handles[0], prepare).await.unwrap();
        step.close(DEADLINE).await.unwrap();
        assert!(rig.disks[0].try_enter().is_none(), "the gate is closed");
        assert_eq!(step.close(DEADLINE).await.unwrap_err().kind(), ErrorKind::NotActive);
        step.abandon().await;
        assert!(rig.disks[0].try_enter().is_some(), "the gate is open again");
        assert_eq!(rig.disks[0].leaf().name(), "start0");
    });
}
