//! The main loop's end of what other threads report: events of disks, jobs and trays, errors of the guest's
//! requests, and the clients of the VNC server.
//!
//! Disks have a [`Handle`] to [`Reports`]. What they send by it keeps its order with the replies to commands:
//! a client gets the events that a command caused on a disk's thread before the reply to that command.

use block::DiskEvent;
use block::job::JobEvent;
use executor::Handle;
use executor::sync::Event;
use qmp::Events;
use qmp::event::{BlockStreamCompleted, DeviceTrayMoved, VncConnected, VncDisconnected, VncInitialized};
use qmp::types::{VncBasicInfo, VncClientInfo};

use super::control::job_info;
use super::control::jobs::JobNames;
use super::control::screen::{client, server};

/// Receives what disks report.
pub(super) struct Reports {
    pub events: Events,
    /// The names of the jobs of all disks.
    pub jobs: JobNames,
    /// Notified when there are new [`super::io_errors::IoErrors`].
    pub io_failed: Event,
}

/// The way to the main loop's [`Reports`] from other threads.
pub(super) type Reporter = Handle<Reports>;

impl Reports {
    /// Returns the end that sends to `events`.
    pub(super) fn new(events: Events) -> Self {
        Reports { events, jobs: JobNames::default(), io_failed: Event::new() }
    }

    /// Sends the event of a disk to clients, and keeps the states of jobs.
    pub(super) fn disk_event(&self, event: DiskEvent) {
        match event {
            DiskEvent::StreamCompleted { device, len, offset, error } => {
                self.events.emit(&BlockStreamCompleted { device, len, offset, error });
            }
            DiskEvent::Job { job, what } => {
                if what == JobEvent::Status {
                    self.jobs.entered(&job);
                }
                job_info::emit(&self.events, &job, what);
            }
        }
    }

    /// Sends the event of a VNC client.
    pub(super) fn vnc_event(&self, event: &rfb::Event) {
        match event {
            rfb::Event::Connected(info) => {
                let VncClientInfo { host, service, family, websocket } = client(info);
                let client = VncBasicInfo { host, service, family, websocket };
                self.events.emit(&VncConnected { server: server(info), client });
            }
            rfb::Event::Initialized(info) => {
                self.events.emit(&VncInitialized { server: server(info), client: client(info) });
            }
            rfb::Event::Disconnected(info) => {
                self.events.emit(&VncDisconnected { server: server(info), client: client(info) });
            }
        }
    }

    /// Sends the event of a tray that opened or closed.
    pub(super) fn tray_moved(&self, device: String, tray_open: bool) {
        self.events.emit(&DeviceTrayMoved { id: device.clone(), device, tray_open });
    }
}
