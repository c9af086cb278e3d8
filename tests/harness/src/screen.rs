//! A screen that is not a guest's, and a VNC server that shows it.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use executor::{Handle, Thread};
use rfb::{Config, Event, Input, Lines, Pointer, Screen, Server, Size};

use crate::Failure;

/// The state of a [`Synthetic`] screen.
#[derive(Default)]
pub struct State {
    /// The content: `0x00RRGGBB`, line after line.
    pub pixels: Vec<u32>,
    /// The keys that came in: Linux's code, and true if the key was pressed.
    pub keys: Vec<(u16, bool)>,
    /// The pointer's positions that came in.
    pub pointers: Vec<Pointer>,
    dirty: Option<Lines>,
}

/// A screen in memory. Clones are the same screen.
#[derive(Clone)]
pub struct Synthetic {
    size: Size,
    state: Arc<Mutex<State>>,
}

impl Synthetic {
    /// A black screen.
    pub fn new(width: u16, height: u16) -> Self {
        let screen = Synthetic { size: Size { width, height }, state: Arc::default() };
        screen.draw(|_, _| 0);
        screen
    }

    /// The state, locked.
    pub fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Draws every pixel; `colour` gets its column and line.
    pub fn draw(&self, colour: impl Fn(u32, u32) -> u32) {
        let Size { width, height } = self.size;
        let lines = 0..u32::from(height);
        let pixels = lines.flat_map(|y| (0..u32::from(width)).map(move |x| (x, y)));
        let mut state = self.state();
        state.pixels = pixels.map(|(x, y)| colour(x, y) & 0x00ff_ffff).collect();
        self.all_dirty(&mut state);
    }

    fn all_dirty(&self, state: &mut State) {
        state.dirty.get_or_insert_with(|| Lines::new(self.size.height)).insert_all();
    }

    /// Draws a pattern in which every tile, every colour and every bit counts: smooth parts, text-like parts
    /// of two colours, and noise.
    pub fn draw_pattern(&self) {
        self.draw(|x, y| match (x / 64 + y / 64) % 4 {
            0 => (x * 255 / 1024) << 16 | (y & 255) << 8 | ((x ^ y) & 255),
            1 if (x * 7 + y * 13) % 5 < 2 => 0x00aa_aaaa,
            1 => 0,
            2 => noise(x, y),
            _ => (x / 8 % 8) << 21 | (y / 8 % 8) << 13 | 0x1f,
        });
    }

    /// Draws a pattern without sharp edges, which JPEG shows well.
    pub fn draw_smooth(&self) {
        self.draw(|x, y| ((x / 4) & 255) << 16 | ((y / 3) & 255) << 8 | (((x + y) / 7) & 255));
    }

    /// Draws a console of text of two colours, which scrolls with `line`.
    pub fn draw_text(&self, line: u32) {
        self.draw(|x, y| {
            let glyph = noise(x / 8, y / 16 + line) % 96;
            let dot = noise(glyph * 8 + x % 8, y % 16).is_multiple_of(3) && glyph < 60;
            if dot { 0x00aa_aaaa } else { 0 }
        });
    }

    /// Lights or darkens a character in the middle, as a console does with its cursor.
    pub fn blink(&self) {
        let Size { width, height } = self.size;
        let (width, left) = (usize::from(width), usize::from(width / 2));
        let mut state = self.state();
        for line in (height / 2..height).take(16) {
            let start = usize::from(line) * width;
            let cursor = start + left..start + (left + 8).min(width);
            state.pixels[cursor].iter_mut().for_each(|pixel| *pixel ^= 0x00aa_aaaa);
            state.dirty.get_or_insert_with(|| Lines::new(height)).insert(line);
        }
    }

    /// Changes every pixel.
    pub fn invert(&self) {
        let mut state = self.state();
        state.pixels.iter_mut().for_each(|pixel| *pixel ^= 0x00ff_ffff);
        self.all_dirty(&mut state);
    }
}

/// A number that looks random.
fn noise(x: u32, y: u32) -> u32 {
    let n = x.wrapping_mul(0x9e37_79b1) ^ y.wrapping_mul(0x85eb_ca77);
    (n ^ (n >> 15)).wrapping_mul(0x2c1b_3c6d) >> 8
}

impl Screen for Synthetic {
    fn size(&self) -> Size {
        self.size
    }

    fn take_dirty_lines(&self, lines: &mut Lines) {
        if let Some(dirty) = self.state().dirty.take() {
            *lines = dirty;
        }
    }

    fn read_line(&self, line: u16, pixels: &mut [u32]) {
        let start = usize::from(line) * usize::from(self.size.width);
        pixels.copy_from_slice(&self.state().pixels[start..][..pixels.len()]);
    }
}

impl Input for Synthetic {
    fn key(&self, code: u16, down: bool) {
        self.state().keys.push((code, down));
    }

    fn pointer(&self, pointer: Pointer) {
        self.state().pointers.push(pointer);
    }
}

/// A VNC server on a thread of its own, on a port of the loopback network.
pub struct ScreenServer {
    /// Its address.
    pub address: SocketAddr,
    /// The events of its clients.
    pub events: Receiver<Event>,
    handle: Handle<Server>,
    thread: Thread,
}

impl ScreenServer {
    /// Starts a server.
    ///
    /// # Errors
    /// The host's, and those of the configuration.
    pub fn start(screen: &Synthetic, config: Config) -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (listener, screen) = (OwnedFd::from(listener), screen.clone());
        let (sender, events) = channel();
        let thread = Thread::start("vnc", std::future::pending)?;
        let started = thread.remote().call(move || async move {
            let (screen, input) = (Rc::new(screen.clone()), Rc::new(screen));
            let events = move |event| drop(sender.send(event));
            let server = Server::start(listener, config, screen, input, events);
            server.map(|server| Handle::new(&server)).map_err(|e| e.to_string())
        });
        Ok(ScreenServer { address, events, handle: started.wait()??, thread })
    }

    /// Returns the processor time that the server's thread has used.
    ///
    /// # Errors
    /// If the thread has ended.
    pub fn processor_time(&self) -> Result<Duration, Failure> {
        let time = self.thread.remote().call(|| async {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
        });
        Ok(time.wait()?)
    }
}

impl Drop for ScreenServer {
    fn drop(&mut self) {
        self.handle.send(Server::stop);
    }
}
