//! The guest's virtio devices other than drives, and the thread on which they work.

use std::future::{pending, ready};
use std::sync::Arc;

use executor::{Remote, Thread};
use virtio::{Device, VirtioDevice};
use virtio_console::{Line, VirtioConsole};
use virtio_input::VirtioInput;
use virtio_net::VirtioNet;
use virtio_rng::VirtioRng;
use vmm::serial::{self, Running, Terminal};
use vmm_sys_util::eventfd::EventFd;

use super::Failure;
use super::options::Run;
use super::screen::Hands;

/// The devices, and the terminals that the main loop serves for them.
pub(super) struct OtherDevices {
    pub devices: Vec<Box<dyn Device>>,
    pub terminals: Vec<Running>,
    /// The other ends of keyboard and tablet, if there is a screen.
    pub hands: Option<Hands>,
    /// The thread that the devices work on.
    pub thread: Remote,
}

/// Starts the thread, confines it before it handles anything of the guest, and makes the devices of
/// `options`. The thread ends with the process.
pub(super) fn start(options: &Run) -> Result<OtherDevices, Failure> {
    let mode = options.sandbox.into();
    let thread = Thread::start("devices", pending).map_err(|e| format!("a thread for devices: {e}"))?;
    let remote = thread.remote();
    remote.spawn(move || {
        vmm::confine(sandbox::Role::Device, mode);
        ready(())
    });
    let mut devices: Vec<Box<dyn Device>> = vec![Box::new(VirtioDevice::new(remote.clone(), VirtioRng))];
    for net in &options.net {
        devices.push(Box::new(VirtioDevice::new(remote.clone(), VirtioNet::new(net.connect()?, net.mac))));
    }
    let mut terminals = Vec::new();
    for path in &options.console {
        let line = Arc::new(Line::new().map_err(|e| format!("--console: {e}"))?);
        terminals.push(
            serial::listen(path, Arc::new(ConsoleLine(line.clone())))
                .map_err(|e| format!("--console: {e}"))?,
        );
        devices.push(Box::new(VirtioDevice::new(remote.clone(), VirtioConsole::new(line))));
    }
    let hands = options.vnc.as_ref().map(|_| Hands::new()).transpose()?;
    if let Some(Hands { keyboard, tablet }) = hands.clone() {
        devices.push(Box::new(VirtioDevice::new(remote.clone(), VirtioInput::keyboard(keyboard))));
        devices.push(Box::new(VirtioDevice::new(remote.clone(), VirtioInput::tablet(tablet))));
    }
    Ok(OtherDevices { devices, terminals, hands, thread: remote.clone() })
}

/// The bytes of a virtio console, served to clients like those of a serial port.
struct ConsoleLine(Arc<Line>);

impl Terminal for ConsoleLine {
    fn take_output(&self, most: usize) -> Vec<u8> {
        self.0.take_output(most)
    }

    fn return_output(&self, bytes: &[u8]) {
        self.0.return_output(bytes);
    }

    fn offer_input(&self, bytes: &[u8]) -> usize {
        self.0.offer_input(bytes)
    }

    fn output_event(&self) -> &EventFd {
        self.0.output_event()
    }

    fn room_event(&self) -> &EventFd {
        self.0.room_event()
    }
}
