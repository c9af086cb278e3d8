//! The session of a client that has logged in: its messages, and the updates that it gets.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use executor::sync::Event;
use link::Link;

use crate::display::{Display, Viewer};
use crate::keyboard::Keyboard;
use crate::login::Ended;
use crate::pixel::{self, Converter, Format};
use crate::proto::{client, encoding, server};
use crate::screen::{Lamps, Size};
use crate::tiles::Rect;
use crate::zrle::Zrle;

/// The time in which a client must take what it is sent, piece by piece. It asked for that.
const PATIENCE: Duration = Duration::from_secs(60);
/// The number of bytes after which a piece of an update is sent.
const PIECE: usize = 128 << 10;
/// The longest text of a clipboard that a client may send. It is dropped.
const MAX_CUT_TEXT: u32 = 16 << 20;

/// A client's options, as it last set them.
struct Options {
    converter: Rc<Converter>,
    zrle: bool,
    /// It follows when the screen changes its size.
    desktop_size: bool,
    /// It sends QEMU's extended key events once it knows that we take them.
    qemu_keys: bool,
    /// It must be sent the colour map.
    colour_map_due: bool,
    /// It shows the lamps of the keyboard.
    lamps: bool,
    /// It must be sent that we take extended key events.
    qemu_keys_due: bool,
}

struct Session {
    link: Link,
    viewer: Viewer,
    options: RefCell<Options>,
    /// The size of the screen that the client knows.
    size: Cell<Size>,
    /// Notified when there may be something to send, and at the end.
    wake: Event,
    ended: Cell<bool>,
}

/// Runs a session from `ClientInit` to its end. Calls `initialized` when the client has the screen's size and
/// name.
pub(crate) async fn run(
    link: Link,
    display: &Rc<Display>,
    id: u64,
    keyboard: Keyboard,
    name: &str,
    initialized: impl FnOnce(),
) -> Result<(), Ended> {
    // The client says whether it wants to share the screen (RFC 6143, section 7.3.1). It always does: a
    // viewer must not end the sessions of others.
    let started = executor::timeout(PATIENCE, async {
        link.fill(&mut [0]).await?;
        display.refreshed().await?;
        let viewer = display.view(id);
        link.send(&server_init(display.size(), name)).await?;
        Ok::<_, Ended>(viewer)
    });
    let viewer = started.await.ok_or(Ended::Late("did not begin its session in time"))??;
    let size = display.size();
    initialized();
    let session = Rc::new(Session {
        link,
        viewer,
        options: RefCell::new(Options {
            converter: Rc::new(Converter::new(Format::OURS)),
            zrle: false,
            desktop_size: false,
            qemu_keys: false,
            colour_map_due: false,
            qemu_keys_due: false,
            lamps: false,
        }),
        size: Cell::new(size),
        wake: Event::new(),
        ended: Cell::new(false),
    });
    let sender = session.clone();
    let sending = executor::spawn(async move {
        let result = sender.send().await;
        // Ends the receiver too.
        sender.link.hang_up();
        result
    });
    let received = session.receive(keyboard).await;
    session.ended.set(true);
    session.link.hang_up();
    session.wake.notify();
    match sending.await {
        // Receiving ended only for that.
        Some(Err(e @ Ended::Late(_))) => Err(e),
        _ => received,
    }
}

/// Returns `ServerInit` (RFC 6143, section 7.3.2).
fn server_init(size: Size, name: &str) -> Vec<u8> {
    let mut message = [size.width.to_be_bytes(), size.height.to_be_bytes()].concat();
    message.extend(Format::OURS.to_bytes());
    message.extend((name.len() as u32).to_be_bytes());
    message.extend(name.as_bytes());
    message
}

fn u16_at<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl Session {
    async fn fixed<const N: usize>(&self) -> Result<[u8; N], Ended> {
        let mut bytes = [0; N];
        self.link.fill(&mut bytes).await?;
        Ok(bytes)
    }

    /// Serves the client's messages until it hangs up.
    async fn receive(&self, mut keyboard: Keyboard) -> Result<(), Ended> {
        loop {
            let mut kind = [0];
            if !self.link.fill_or_end(&mut kind).await? {
                return Ok(());
            }
            match kind[0] {
                client::SET_PIXEL_FORMAT => self.set_pixel_format(&self.fixed().await?)?,
                client::SET_ENCODINGS => self.set_encodings().await?,
                client::UPDATE_REQUEST => self.request(&self.fixed().await?),
                client::KEY => {
                    let bytes: [u8; 7] = self.fixed().await?;
                    keyboard.keysym(u32_at(&bytes, 3), bytes[0] != 0);
                }
                client::POINTER => {
                    let bytes: [u8; 5] = self.fixed().await?;
                    let size = self.viewer.display.size();
                    keyboard.pointer(u16_at(&bytes, 1), u16_at(&bytes, 3), bytes[0], size);
                }
                client::CUT_TEXT => self.cut_text().await?,
                client::QEMU => {
                    let [kind] = self.fixed().await?;
                    if kind != client::QEMU_KEY {
                        return Err(Ended::Protocol("sent an unknown message of QEMU's"));
                    }
                    let bytes: [u8; 10] = self.fixed().await?;
                    keyboard.scancode(u32_at(&bytes, 6), u32_at(&bytes, 2), u16_at(&bytes, 0) != 0);
                }
                _ => return Err(Ended::Protocol("sent an unknown message")),
            }
        }
    }

    fn set_pixel_format(&self, bytes: &[u8; 19]) -> Result<(), Ended> {
        let mut format = [0; Format::LEN];
        format.copy_from_slice(&bytes[3..]);
        let Some(format) = Format::parse(&format) else {
            return Err(Ended::Protocol("asked for a pixel format that is not possible"));
        };
        let mut options = self.options.borrow_mut();
        options.colour_map_due = format.is_mapped();
        if format != options.converter.format() {
            options.converter = Rc::new(Converter::new(format));
        }
        drop(options);
        self.wake.notify();
        Ok(())
    }

    async fn set_encodings(&self) -> Result<(), Ended> {
        let bytes: [u8; 3] = self.fixed().await?;
        let (mut zrle, mut desktop_size, mut qemu_keys, mut lamps) = (None, false, false, false);
        // One after the other: a client may list 65,535.
        for _ in 0..u16_at(&bytes, 1) {
            match i32::from_be_bytes(self.fixed().await?) {
                // They are listed in the order in which the client prefers them.
                encoding::RAW => zrle = zrle.or(Some(false)),
                encoding::ZRLE => zrle = zrle.or(Some(true)),
                encoding::DESKTOP_SIZE => desktop_size = true,
                encoding::QEMU_KEYS => qemu_keys = true,
                encoding::LAMPS => lamps = true,
                _ => {}
            }
        }
        let mut options = self.options.borrow_mut();
        options.zrle = zrle.unwrap_or(false);
        options.desktop_size = desktop_size;
        options.qemu_keys_due |= qemu_keys && !options.qemu_keys;
        options.qemu_keys |= qemu_keys;
        options.lamps = lamps;
        drop(options);
        self.wake.notify();
        Ok(())
    }

    fn request(&self, bytes: &[u8; 9]) {
        let area = Rect {
            x: u16_at(bytes, 1),
            y: u16_at(bytes, 3),
            width: u16_at(bytes, 5),
            height: u16_at(bytes, 7),
        };
        self.viewer.view.request(area, bytes[0] != 0);
        self.wake.notify();
    }

    async fn cut_text(&self) -> Result<(), Ended> {
        let bytes: [u8; 7] = self.fixed().await?;
        let mut left = u32_at(&bytes, 3);
        if left > MAX_CUT_TEXT {
            return Err(Ended::Protocol("sent a text that is too long"));
        }
        let mut dropped = [0; 1024];
        while left > 0 {
            let some = left.min(dropped.len() as u32);
            self.link.fill(&mut dropped[..some as usize]).await?;
            left -= some;
        }
        Ok(())
    }

    /// Sends what the client asks for, until the session ends.
    async fn send(&self) -> Result<(), Ended> {
        let mut sender =
            Sender { session: self, piece: Vec::new(), zrle: None, pixels: Vec::new(), lamps: None };
        while !self.ended.get() {
            while sender.send_due().await? {}
            if !self.viewer.view.is_requested() {
                self.wake.wait().await;
                continue;
            }
            // What is sent must be newer than the request. This also limits the number of updates.
            self.viewer.display.refreshed().await?;
            // Pixels of a new format come after its colour map.
            while sender.send_due().await? {}
            sender.update().await?;
        }
        Ok(())
    }
}

/// The sending half of a session.
struct Sender<'a> {
    session: &'a Session,
    /// The piece that is sent next.
    piece: Vec<u8>,
    /// The compressor, once it was needed: its stream goes on as long as the connection.
    zrle: Option<Box<Zrle>>,
    /// Pixels of a rectangle.
    pixels: Vec<u32>,
    /// The lamps that the client was sent last.
    lamps: Option<Lamps>,
}

impl Sender<'_> {
    async fn flush(&mut self) -> Result<(), Ended> {
        let sent = executor::timeout(PATIENCE, self.session.link.send(&self.piece)).await;
        self.piece.clear();
        self.piece.shrink_to(2 * PIECE);
        Ok(sent.ok_or(Ended::Late("did not take an update in time"))??)
    }

    /// Begins an update with this many rectangles (RFC 6143, section 7.6.1).
    fn head(&mut self, rects: usize) {
        self.piece.extend([server::UPDATE, 0]);
        // At most `MAX_RECTS`.
        self.piece.extend((rects as u16).to_be_bytes());
    }

    fn rect(&mut self, rect: Rect, encoding: i32) {
        for side in [rect.x, rect.y, rect.width, rect.height] {
            self.piece.extend(side.to_be_bytes());
        }
        self.piece.extend(encoding.to_be_bytes());
    }

    /// Sends what is due without a request. Returns true if there was anything.
    async fn send_due(&mut self) -> Result<bool, Ended> {
        let (map, keys, lamps) = {
            let mut options = self.session.options.borrow_mut();
            let lamps = if options.lamps { self.session.viewer.display.lamps() } else { None };
            (
                std::mem::take(&mut options.colour_map_due),
                std::mem::take(&mut options.qemu_keys_due),
                lamps.filter(|lamps| self.lamps.replace(*lamps) != Some(*lamps)),
            )
        };
        if map {
            self.piece.extend([server::COLOUR_MAP, 0, 0, 0, 1, 0]);
            for colour in pixel::colour_map().flatten() {
                self.piece.extend(colour.to_be_bytes());
            }
        }
        if keys {
            // An empty rectangle says that its encoding is known ("QEMU Extended Key Event Pseudo-encoding").
            self.head(1);
            self.rect(Rect::all(self.session.size.get()), encoding::QEMU_KEYS);
        }
        if let Some(Lamps { scroll_lock, num_lock, caps_lock }) = lamps {
            // "QEMU LED State Pseudo-encoding"; a rectangle of one pixel, as QEMU sends it.
            self.head(1);
            self.rect(Rect { x: 0, y: 0, width: 1, height: 1 }, encoding::LAMPS);
            self.piece.push(u8::from(scroll_lock) | u8::from(num_lock) << 1 | u8::from(caps_lock) << 2);
        }
        let is_due = !self.piece.is_empty();
        if is_due {
            self.flush().await?;
        }
        Ok(is_due)
    }

    /// Sends what has changed of the area that the client asked for, if anything has.
    async fn update(&mut self) -> Result<(), Ended> {
        let Session { viewer, options, size, .. } = self.session;
        let (converter, zrle, desktop_size) = {
            let options = options.borrow();
            (options.converter.clone(), options.zrle, options.desktop_size)
        };
        let now = viewer.display.size();
        if now != size.get() && desktop_size {
            // The client asks for everything again ("DesktopSize Pseudo-Encoding", RFC 6143, section 7.8.2).
            viewer.view.answered();
            size.set(now);
            self.head(1);
            self.rect(Rect::all(now), encoding::DESKTOP_SIZE);
            return self.flush().await;
        }
        // A client that cannot follow sees the part that its window has room for.
        let rects = viewer.view.take(size.get());
        if rects.is_empty() {
            return Ok(());
        }
        self.head(rects.len());
        for rect in rects {
            let mut pixels = std::mem::take(&mut self.pixels);
            viewer.display.frame().copy(rect, &mut pixels);
            match zrle {
                true => {
                    self.rect(rect, encoding::ZRLE);
                    let zrle = self.zrle.get_or_insert_with(|| Box::new(Zrle::new()));
                    zrle.append(&converter, rect, &pixels, &mut self.piece);
                }
                false => {
                    self.rect(rect, encoding::RAW);
                    converter.append(&pixels, &mut self.piece);
                }
            }
            self.pixels = pixels;
            if self.piece.len() >= PIECE {
                self.flush().await?;
                // Encoding takes time, in which others wait for their keys and updates.
                executor::yield_now().await;
            }
        }
        self.flush().await
    }
}
