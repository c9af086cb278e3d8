//! The guest's screen: the machine's frame buffer, the keyboard and tablet, and the VNC server between them
//! and its clients.
//!
//! The server has a thread of its own, which is confined before the first client can connect. It looks at the
//! frame buffer only while a client waits for changes.

use std::cell::Cell;
use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;

use executor::{Handle, Thread};
use nbd::Credentials;
use qmp::types::NetworkAddressFamily;
use rfb::{ClientInfo, Config, Endpoint, Lines, Password, Pointer, Security, Server};
use virtio_input::codes::{ABS_MAX, BTN_LEFT, BTN_MIDDLE, BTN_RIGHT};
use virtio_input::{Axis, Feed};
use vmm::screen::Screen as FrameBuffer;

use super::Failure;
use super::reports::Reporter;

/// The guest's keyboard and tablet, usable from any thread.
#[derive(Clone)]
pub(super) struct Hands {
    pub keyboard: Arc<Feed>,
    pub tablet: Arc<Feed>,
}

impl Hands {
    /// Returns the ends of a keyboard and a tablet that are not connected yet.
    pub(super) fn new() -> Result<Self, Failure> {
        let feed = || Feed::new().map(Arc::new).map_err(|e| format!("--vnc: {e}"));
        Ok(Hands { keyboard: feed()?, tablet: feed()? })
    }
}

/// Everything of the screen that the main loop uses.
pub(super) struct Screen {
    pub frame: Arc<FrameBuffer>,
    pub hands: Hands,
    /// The position at which the monitor's clients have the pointer.
    pub position: Cell<(u32, u32)>,
    /// The password, if clients need one.
    pub password: Option<Password>,
    pub security: Security,
    pub endpoint: Endpoint,
    server: Handle<Server>,
    /// Keeps the socket's file until the end.
    _listener: qmp::Listener,
}

/// The parts that are opened before the machine.
pub(super) struct Waiting {
    pub listener: qmp::Listener,
    pub password: bool,
    pub credentials: Option<Credentials>,
}

impl Screen {
    /// Starts the server on its thread, confined as `mode` says, and reports its clients to `main`. The
    /// thread ends with the process.
    pub(super) async fn start(
        waiting: Waiting,
        frame: Arc<FrameBuffer>,
        hands: Hands,
        mode: sandbox::Mode,
        main: Reporter,
    ) -> Result<Self, Failure> {
        let Waiting { listener, password, credentials } = waiting;
        let failed = |e: std::io::Error| format!("--vnc: {e}");
        let socket = std::os::fd::AsFd::as_fd(&listener).try_clone_to_owned().map_err(failed)?;
        let password = password.then(Password::new);
        let config = Config { name: "Millrace".into(), password: password.clone(), credentials };
        let thread = Thread::start("screen", pending).map_err(failed)?;
        let (shown, typing) = (frame.clone(), hands.clone());
        let started = thread.remote().call(move || async move {
            vmm::confine(sandbox::Role::Screen, mode);
            let events = move |event| main.send(move |main| main.vnc_event(&event));
            let server = Server::start(socket, config, Rc::new(Shown(shown)), Rc::new(typing), events);
            let server = server.map_err(|e| e.to_string())?;
            let found = (Handle::new(&server), server.security(), server.endpoint());
            // Handles do not keep it.
            executor::spawn(async move {
                pending::<()>().await;
                drop(server);
            });
            Ok(found)
        });
        let started = started.await.map_err(|_| "--vnc: the screen's thread panicked".to_owned())?;
        let (server, security, endpoint) = started.map_err(|e: String| format!("--vnc: {e}"))?;
        let position = Cell::new((0, 0));
        Ok(Screen { frame, hands, position, password, security, endpoint, server, _listener: listener })
    }

    /// Returns the clients that have logged in; nobody, if the server's thread has panicked.
    pub(super) async fn clients(&self) -> Vec<ClientInfo> {
        self.server.submit(|server| async move { server.clients() }).await.unwrap_or_default()
    }

    /// Returns the pixels of all lines.
    pub(super) fn pixels(&self) -> (rfb::Size, Vec<u32>) {
        let size = self.frame.size();
        let mut pixels = vec![0; size.width() * size.height()];
        for (line, pixels) in pixels.chunks_exact_mut(size.width()).enumerate() {
            self.frame.read_line(line, pixels);
        }
        (size_of(&self.frame), pixels)
    }
}

fn size_of(frame: &FrameBuffer) -> rfb::Size {
    let size = frame.size();
    rfb::Size { width: size.width() as u16, height: size.height() as u16 }
}

/// The frame buffer as the server sees it.
struct Shown(Arc<FrameBuffer>);

impl rfb::Screen for Shown {
    fn size(&self) -> rfb::Size {
        size_of(&self.0)
    }

    fn take_dirty_lines(&self, lines: &mut Lines) {
        let mut changed = vec![false; self.0.size().height()];
        if let Err(e) = self.0.take_changes(&mut changed) {
            executor::limited!(warn, "the screen's log of changes: {e}");
            changed.fill(true);
        }
        (0..).zip(changed).filter(|(_, changed)| *changed).for_each(|(line, _)| lines.insert(line));
    }

    fn read_line(&self, line: u16, pixels: &mut [u32]) {
        self.0.read_line(line.into(), pixels);
    }
}

/// Converts a coordinate of a screen with `side` pixels to a tablet's.
fn scaled(at: u16, side: u16) -> u32 {
    let last = u32::from(side).saturating_sub(1).max(1);
    // The middle of what belongs to the pixel, so that the guest's own rounding finds it again.
    (u32::from(at) * ABS_MAX + last / 2) / last
}

impl rfb::Input for Hands {
    fn key(&self, code: u16, down: bool) {
        self.keyboard.key(code, down);
    }

    fn lamps(&self) -> Option<rfb::Lamps> {
        let virtio_input::Lamps { num_lock, caps_lock, scroll_lock } = self.keyboard.lamps()?;
        Some(rfb::Lamps { scroll_lock, num_lock, caps_lock })
    }

    fn pointer(&self, pointer: Pointer) {
        let Pointer { x, y, size, left, middle, right, wheel, horizontal_wheel } = pointer;
        self.tablet.point(scaled(x, size.width), scaled(y, size.height));
        for (button, down) in [(BTN_LEFT, left), (BTN_MIDDLE, middle), (BTN_RIGHT, right)] {
            self.tablet.key(button, down);
        }
        for (axis, steps) in [(Axis::Vertical, wheel), (Axis::Horizontal, horizontal_wheel)] {
            if steps != 0 {
                self.tablet.wheel(axis, steps.into());
            }
        }
    }
}

/// Returns an end of a connection in QEMU's words: host, service and family.
pub(super) fn described(endpoint: &Endpoint) -> (String, String, NetworkAddressFamily) {
    match endpoint {
        Endpoint::Unix(path) => {
            let path = path.as_deref().map(|path| path.display().to_string());
            (String::new(), path.unwrap_or_default(), NetworkAddressFamily::Unix)
        }
        Endpoint::Ip(address) => {
            let family = match address {
                std::net::SocketAddr::V4(_) => NetworkAddressFamily::Ipv4,
                std::net::SocketAddr::V6(_) => NetworkAddressFamily::Ipv6,
            };
            (address.ip().to_string(), address.port().to_string(), family)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_scales_back_finds_each_pixel() {
        for side in [640, 1024, 1366, 2560] {
            for at in 0..side {
                let back = (scaled(at, side) * u32::from(side - 1) + ABS_MAX / 2) / ABS_MAX;
                assert_eq!(back, u32::from(at), "of {side}");
            }
        }
        assert_eq!((scaled(0, 1), scaled(639, 640)), (0, ABS_MAX));
    }
}
