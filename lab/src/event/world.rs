//! The devices of both hosts, and the link between them.

use std::rc::Rc;
use std::time::Duration;

use block::sim::{Line, Service, SimDevice, SimHosts, SimLink};
use block::storage::Storage;
use block::{Disk, Kind, Result, chain};
use executor::sync::Event;

use crate::experiment::{Device, Setup};

/// The name of the source's device, of the target's, and of each as the other host sees it.
pub(super) const SOURCE: &str = "source";
pub(super) const TARGET: &str = "target";
pub(super) const FAR_SOURCE: &str = "far-source";
pub(super) const FAR_TARGET: &str = "far-target";
/// The name of the trace of an earlier boot.
pub(super) const TRACE: &str = "trace";

/// See the module.
pub(super) struct World {
    pub(super) hosts: Rc<SimHosts>,
    pub(super) link: Rc<SimLink>,
    pub(super) source: Rc<SimDevice>,
    pub(super) target: Rc<SimDevice>,
    /// Bytes of the disk, and of the data that it holds at first.
    pub(super) size: u64,
    pub(super) data: u64,
    /// The time to the other host.
    pub(super) delay: Duration,
    /// An event of a disk's job.
    pub(super) job_event: Rc<Event>,
    /// The source's device, and the target's over the link, for copies that no image knows of.
    pub(super) near: Rc<dyn Storage>,
    pub(super) far: Rc<dyn Storage>,
}

fn seconds(time: f64) -> Duration {
    Duration::from_secs_f64(time)
}

/// The service of an experiment's device. Its depth is that of its class: what it takes for its requests a
/// second at its latency, and eight more.
fn service(device: &Device) -> Service {
    Service {
        read_rate: device.read_rate,
        write_rate: device.write_rate,
        read_latency: seconds(device.read_latency),
        write_latency: seconds(device.write_latency),
        iops: device.iops,
        flush: seconds(device.flush),
        depth: (device.iops * device.read_latency.max(device.write_latency)).ceil() as usize + 8,
    }
}

impl World {
    /// Creates the devices. With `image`, the target has room for the tables of an image.
    pub(super) fn new(setup: &Setup, image: bool) -> Result<World> {
        let (size, share) = setup.disk.map_or((0, 1.0), |disk| (disk.size, disk.allocated));
        let data = ((size as f64 * share) as u64).next_multiple_of(64 << 10).min(size);
        let more = if image { size / 64 + (64 << 20) } else { 0 };
        let source = SimDevice::new(SOURCE, size, data, service(&setup.source))?;
        let target = SimDevice::new(TARGET, size + more, 0, service(&setup.target))?;
        let line = Line {
            rate: setup.link.rate,
            delay: seconds(setup.link.delay),
            jitter: seconds(setup.link.jitter),
        };
        let link = SimLink::new(line);
        let hosts = SimHosts::new();
        let near = hosts.add_near(&source);
        hosts.add_near(&target);
        hosts.add_far(FAR_SOURCE, &link, &source);
        let far = hosts.add_far(FAR_TARGET, &link, &target);
        let (delay, job_event) = (line.delay, Rc::new(Event::new()));
        Ok(World { hosts, link, source, target, size, data, delay, job_event, near, far })
    }

    /// Opens a disk of an image.
    pub(super) async fn open(&self, name: &str, kind: Kind) -> Result<Rc<Disk>> {
        let leaf = chain::open(&*self.hosts, name, kind, true).await?;
        let event = self.job_event.clone();
        Ok(Disk::new("virtio0", leaf, false, self.hosts.clone(), move |_| event.notify()))
    }

    /// Opens the guest's disk at the source.
    pub(super) async fn source_disk(&self) -> Result<Rc<Disk>> {
        self.open(SOURCE, Kind::Raw).await
    }
}
