//! The guest's virtio devices that are no drives, and the thread on which they work.

use std::future::{pending, ready};

use executor::Thread;
use virtio_device::Device;
use virtio_net::VirtioNet;
use virtio_rng::VirtioRng;

use super::Failure;
use super::options::Run;

/// Starts the thread, which is confined before it sees anything of a guest, and makes the devices of `options`.
/// The thread ends with the process.
pub(super) fn start(options: &Run) -> Result<Vec<Box<dyn Device>>, Failure> {
    let mode = options.sandbox.into();
    let thread = Thread::start("devices", pending).map_err(|e| format!("a thread for devices: {e}"))?;
    let remote = thread.remote();
    remote.spawn(move || {
        crate::confine(sandbox::Role::Device, mode);
        ready(())
    });
    let mut devices: Vec<Box<dyn Device>> = vec![Box::new(VirtioRng::new(remote.clone()))];
    for net in &options.net {
        devices.push(Box::new(VirtioNet::new(remote.clone(), net.connect()?, net.mac)));
    }
    Ok(devices)
}
