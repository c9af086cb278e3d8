//! The two devices behind the driver's queue: ours in this process, and QEMU's in its daemon through
//! vhost-user.

use std::any::Any;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use bench::{self, Daemon, Vmm};
use block::disk::job::JobOptions;
use block::io::{Aio, Engine};
use block::storage::HostOpener;
use block::stream::StreamOptions;
use block::{Disk, DiskHandle, Kind, chain};
use executor::Thread;
use harness::Failure;
use serde_json::json;
use vhost::vhost_user::message::VhostUserVirtioFeatures;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio::{Activation, Device, Interrupt, ReadyQueue, VirtioDevice};
use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_blk::{ErrorPolicy, Options, QUEUE_SIZE, VirtioBlk};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

use crate::driver::{AVAIL, Driver, SIZE, TABLE, USED};

const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_BLK_F_FLUSH;

/// Our device, and its disk on a thread of its own.
pub struct Ours {
    device: VirtioDevice<VirtioBlk<Disk>>,
    handle: DiskHandle,
    /// Kept until the disk is closed.
    thread: Option<Thread>,
}

/// QEMU's device: the connection, and the daemon at its other end.
struct Qemu {
    _frontend: Frontend,
    _daemon: Daemon,
}

/// The name of the stream's job.
const STREAM: &str = "stream";

struct Call(EventFd);

impl Interrupt for Call {
    fn used(&self, _index: u16) {
        // Fails only if the counter is full, and then it is readable already.
        let _ = self.0.write(1);
    }
    fn config_changed(&self) {}
    fn needs_reset(&self) {
        eprintln!("bench-rings: our device reports malformed rings");
    }
}

/// Opens `disk` in the program `vmm` and passes it the driver's queue. Dropping the result ends the
/// device.
pub fn start(vmm: Vmm, disk: &bench::Disk, folder: &Path, driver: &Driver) -> Result<Box<dyn Any>, Failure> {
    Ok(match vmm {
        Vmm::Ours => Box::new(ours(disk, driver)?),
        Vmm::Qemu => Box::new(qemu(disk, folder, driver)?),
    })
}

/// Opens `disk` in this process, as [`start`] does.
pub fn ours(disk: &bench::Disk, driver: &Driver) -> Result<Ours, Failure> {
    let thread = Thread::start("disk", std::future::pending)?;
    let (path, format) = disk.leaf.clone();
    let kind: Kind = format.parse()?;
    let (name, direct) = (path.display().to_string(), disk.direct);
    let opened = thread.remote().call(move || async move {
        let opener = Rc::new(HostOpener { engine: Engine::new(Aio::IoUring), direct });
        let leaf = chain::open(&*opener, &name, kind, true).await?;
        let disk = Disk::new("disk", leaf, false, opener, |_| {});
        let kept = disk.clone();
        executor::spawn(async move { kept.closed().await });
        Ok::<_, block::Error>((disk.handle(), disk.size()))
    });
    let (handle, size) = opened.wait().map_err(|_| "the disk's thread has ended")??;
    let errors = ErrorPolicy::report();
    let options = Options { size, read_only: false, serial: "bench".to_owned(), queues: 1, errors };
    let mut device = VirtioBlk::device(handle.clone(), options);
    let mut queue = Queue::new(QUEUE_SIZE)?;
    queue.set_size(SIZE);
    queue.set_desc_table_address(Some(TABLE as u32), Some(0));
    queue.set_avail_ring_address(Some(AVAIL as u32), Some(0));
    queue.set_used_ring_address(Some(USED as u32), Some(0));
    queue.set_ready(true);
    device.activate(Activation {
        memory: driver.memory.clone(),
        features: FEATURES & device.features(),
        queues: vec![ReadyQueue { index: 0, queue, kick: driver.kick.try_clone()? }],
        interrupt: Arc::new(Call(driver.call.try_clone()?)),
    })?;
    Ok(Ours { device, handle, thread: Some(thread) })
}

impl Ours {
    /// Starts a stream of the backing file into the leaf.
    pub fn start_stream(&self) -> Result<(), Failure> {
        let handle = self.handle.clone();
        let started = self.handle.remote().call(move || async move {
            let disk = handle.get().ok_or("the disk is closed")?;
            let started = disk.start_stream(StreamOptions::default(), JobOptions::new(STREAM)).await;
            started.map_err(|e| e.to_string())
        });
        Ok(started.wait()??)
    }

    /// Returns true if the stream still runs.
    pub fn is_streaming(&self) -> Result<bool, Failure> {
        let handle = self.handle.clone();
        let asked =
            self.handle.remote().call(move || async move { handle.get()?.job(STREAM).ok().map(drop) });
        Ok(asked.wait()?.is_some())
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.device.reset();
        let handle = self.handle.clone();
        let closed = self.handle.remote().call(move || async move {
            match handle.get() {
                Some(disk) => disk.close().await,
                None => Ok(()),
            }
        });
        match closed.wait() {
            Ok(Ok(())) => {}
            Ok(Err(e)) => eprintln!("bench-rings: closing our disk: {e}"),
            Err(_) => eprintln!("bench-rings: our disk's thread has ended"),
        }
        // The thread ends with the process: its executor waits forever.
        drop(self.thread.take());
    }
}

fn qemu(disk: &bench::Disk, folder: &Path, driver: &Driver) -> Result<Qemu, Failure> {
    let mut daemon = Daemon::start(Vmm::Qemu, Path::new(""), folder, disk)?;
    let socket = folder.join("vhost");
    daemon.qmp.execute_json(
        "block-export-add",
        json!({
            "type": "vhost-user-blk", "id": "vhost", "node-name": "disk", "writable": true,
            "addr": {"type": "unix", "path": socket}
        }),
    )?;
    let mut frontend = Frontend::connect(&socket, 1)?;
    frontend.set_owner()?;
    let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    let offered = frontend.get_features()?;
    if offered & FEATURES != FEATURES || offered & protocol == 0 {
        return Err(format!("QEMU offers only the features {offered:#x}").into());
    }
    frontend.set_features(FEATURES | protocol)?;
    let offered = frontend.get_protocol_features()?;
    frontend.set_protocol_features(offered & vhost::vhost_user::VhostUserProtocolFeatures::CONFIG)?;
    let region = driver.memory.iter().next().ok_or("no memory")?;
    let region = VhostUserMemoryRegionInfo::from_guest_region(region)?;
    frontend.set_mem_table(&[region])?;
    let host = |address| Ok::<_, Failure>(driver.memory.get_host_address(GuestAddress(address))? as u64);
    frontend.set_vring_num(0, SIZE)?;
    frontend.set_vring_base(0, 0)?;
    frontend.set_vring_addr(
        0,
        &VringConfigData {
            queue_max_size: SIZE,
            queue_size: SIZE,
            flags: 0,
            desc_table_addr: host(TABLE)?,
            used_ring_addr: host(USED)?,
            avail_ring_addr: host(AVAIL)?,
            log_addr: None,
        },
    )?;
    frontend.set_vring_call(0, &driver.call)?;
    frontend.set_vring_kick(0, &driver.kick)?;
    frontend.set_vring_enable(0, true)?;
    Ok(Qemu { _frontend: frontend, _daemon: daemon })
}
