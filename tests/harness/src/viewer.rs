//! A small VNC client that sees every pixel, and stays connected for as long as a test wants.

use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use guest_agent::client::Link;

use crate::picture::Picture;
use crate::{Failure, check};

/// Encodings (RFC 6143, section 7.7; the LEDs are rfbproto's "QEMU LED State Pseudo-encoding").
const RAW: i32 = 0;
const DESKTOP_SIZE: i32 = -223;
const LEDS: i32 = -261;

/// A client of RFB 3.8 without a login. It takes raw pixels in the server's format.
pub struct Viewer {
    stream: Box<dyn Link + Send>,
    /// The screen as the server has sent it.
    pub picture: Picture,
    /// The lock keys' lamps as the server has sent them: Scroll, Num and Caps Lock from bit 0 on.
    pub leds: Option<u8>,
    /// The number of updates that came.
    pub updates: u64,
    /// True from a request for changes until its update.
    waits: bool,
}

impl Viewer {
    /// Connects to a port of the loopback network.
    ///
    /// # Errors
    /// If nobody listens there, or it is no VNC server that lets everybody in.
    pub fn tcp(port: u16, patience: Duration) -> Result<Self, Failure> {
        Self::new(Box::new(TcpStream::connect((Ipv4Addr::LOCALHOST, port))?), patience)
    }

    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// As [`Viewer::tcp`].
    pub fn unix(path: &Path, patience: Duration) -> Result<Self, Failure> {
        Self::new(Box::new(UnixStream::connect(path)?), patience)
    }

    fn new(stream: Box<dyn Link + Send>, patience: Duration) -> Result<Self, Failure> {
        stream.set_timeout(patience)?;
        let picture = Picture { size: (0, 0), pixels: Vec::new() };
        let mut viewer = Viewer { stream, picture, leds: None, updates: 0, waits: false };
        let mut version = [0; 12];
        viewer.stream.read_exact(&mut version)?;
        check(version.starts_with(b"RFB 003.008"), "a VNC server")?;
        viewer.send(b"RFB 003.008\n")?;
        // One kind of security, None; its result; and the screen is shared.
        viewer.expect(&[1, 1])?;
        viewer.send(&[1])?;
        viewer.expect(&[0; 4])?;
        viewer.send(&[1])?;
        let size = (viewer.u16()?.into(), viewer.u16()?.into());
        let mut format = [0; 16];
        viewer.stream.read_exact(&mut format)?;
        let name = viewer.u32()?;
        std::io::copy(&mut (&mut viewer.stream).take(name.into()), &mut std::io::sink())?;
        viewer.resize(size);
        let encodings = [RAW, DESKTOP_SIZE, LEDS].map(i32::to_be_bytes).concat();
        viewer.send(&[&[2, 0, 0, 3][..], &encodings].concat())?;
        viewer.request(false)?;
        Ok(viewer)
    }

    fn resize(&mut self, size: (u32, u32)) {
        self.picture = Picture { size, pixels: vec![0; size.0 as usize * size.1 as usize] };
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.stream.write_all(bytes)?)
    }

    fn expect(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut came = vec![0; bytes.len()];
        self.stream.read_exact(&mut came)?;
        check(came == bytes, format!("the server sends {bytes:?}, not {came:?}"))
    }

    fn u16(&mut self) -> Result<u16, Failure> {
        let mut bytes = [0; 2];
        self.stream.read_exact(&mut bytes)?;
        Ok(u16::from_be_bytes(bytes))
    }

    fn u32(&mut self) -> Result<u32, Failure> {
        Ok(u32::from(self.u16()?) << 16 | u32::from(self.u16()?))
    }

    /// Asks for changes, or for everything.
    fn request(&mut self, incremental: bool) -> Result<(), Failure> {
        let (width, height) = self.picture.size;
        let [width, height] = [width, height].map(|side| (side as u16).to_be_bytes());
        self.waits = true;
        self.send(&[&[3, incremental.into(), 0, 0, 0, 0][..], &width, &height].concat())
    }

    /// Presses or releases the key that makes a symbol.
    ///
    /// # Errors
    /// If the connection is lost.
    pub fn key(&mut self, keysym: u32, down: bool) -> Result<(), Failure> {
        self.send(&[&[4, down.into(), 0, 0][..], &keysym.to_be_bytes()].concat())
    }

    /// Moves the pointer. Bit 0 of `buttons` is the left button.
    ///
    /// # Errors
    /// If the connection is lost.
    pub fn point(&mut self, x: u16, y: u16, buttons: u8) -> Result<(), Failure> {
        self.send(&[&[5, buttons][..], &x.to_be_bytes(), &y.to_be_bytes()].concat())
    }

    /// Asks for an update if none is on its way, and receives it.
    fn update(&mut self) -> Result<(), Failure> {
        if !self.waits {
            self.request(true)?;
        }
        self.expect(&[0, 0])?;
        for _ in 0..self.u16()? {
            let [x, y, width, height] = [self.u16()?, self.u16()?, self.u16()?, self.u16()?].map(u32::from);
            match self.u32()?.cast_signed() {
                RAW => {
                    let mut bytes = vec![0; width as usize * height as usize * 4];
                    self.stream.read_exact(&mut bytes)?;
                    let stride = self.picture.size.0 as usize;
                    for (line, bytes) in (y as usize..).zip(bytes.chunks_exact(width as usize * 4)) {
                        let pixels = self.picture.pixels.get_mut(line * stride + x as usize..);
                        let pixels = pixels.ok_or("a rectangle outside of the screen")?;
                        for (pixel, bytes) in pixels.iter_mut().zip(bytes.chunks_exact(4)) {
                            *pixel = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]);
                        }
                    }
                    self.waits = false;
                }
                DESKTOP_SIZE => {
                    self.resize((width, height));
                    self.waits = false;
                }
                LEDS => {
                    let mut leds = [0];
                    self.stream.read_exact(&mut leds)?;
                    self.leds = Some(leds[0]);
                }
                other => return Err(format!("an encoding that was not asked for: {other}").into()),
            }
        }
        self.updates += 1;
        Ok(())
    }

    /// Receives updates until the screen satisfies `is_right`.
    ///
    /// # Errors
    /// If it does not within `time` (the error has `what`), or the connection is lost.
    pub fn until(
        &mut self,
        what: &str,
        time: Duration,
        mut is_right: impl FnMut(&Self) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + time;
        while !is_right(self)? {
            let left = deadline.saturating_duration_since(Instant::now());
            check(!left.is_zero(), format!("within {time:?} a viewer sees {what}"))?;
            self.stream.set_timeout(left)?;
            self.update().map_err(|e| format!("a viewer waits for {what}: {e}"))?;
        }
        Ok(())
    }
}
