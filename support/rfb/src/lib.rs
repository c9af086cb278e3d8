//! The server side of RFB, the protocol of VNC: shows a screen to clients, and takes their keys and pointers.
//!
//! [`Server::start`] takes a listening socket, and joins a [`Screen`] and an [`Input`] to the clients that
//! connect to it. It speaks RFB 3.3, 3.7 and 3.8 (RFC 6143) without security, with a password (VncAuth), and
//! with either of them over TLS (VeNCrypt). It sends pixels raw or in ZRLE, in the format that the client
//! asks for, follows when the screen changes its size, takes QEMU's extended key events and reports the
//! lamps of the lock keys (rfbproto, the community's specification of extensions).
//!
//! Nothing that a client sends is trusted. A client holds the memory of its connection: a piece of an update,
//! at most 2 MiB, and as much for its encoding. Nothing is queued for one that does not read: when it reads
//! again, it gets what the screen shows then. While no client waits for a change, the screen is not looked
//! at. The clients share the screen, also those that ask for it alone.
//!
//! # Modules, in reading order
//!
//! - `screen`: the screen that is shown, and the receiver of keys and pointers
//! - `password`: a password that may change while the server runs
//! - `server`: the configuration, the clients, and their events
//! - `proto`: numbers of the wire
//! - `login`: a client proves who it is; `failures`: failed logins slow down whoever causes them
//! - `session`: the messages of a client, and the updates that it gets
//! - `display`: what has changed, and who waits for that; `frame`: a copy of the screen, by which changes are
//!   found; `tiles`: sets of the squares that have changed
//! - `pixel`: pixel formats; `zrle`: the compressed encoding
//! - [`keys`]: keysyms and scancodes as Linux's key codes; `keyboard`: the keys that a client holds
//! - [`picture`]: a screen as a PNG or PPM file
//!
//! # Example
//!
//! ```
//! # use std::os::unix::net::{UnixListener, UnixStream};
//! # use std::rc::Rc;
//! use rfb::{Config, Input, Lines, Pointer, Screen, Server, Size};
//!
//! /// A blue screen that never changes.
//! struct Blue;
//!
//! impl Screen for Blue {
//!     fn size(&self) -> Size {
//!         Size { width: 640, height: 480 }
//!     }
//!     fn take_dirty_lines(&self, _: &mut Lines) {}
//!     fn read_line(&self, _: u16, pixels: &mut [u32]) {
//!         pixels.fill(0x0000_00ff);
//!     }
//! }
//!
//! impl Input for Blue {
//!     fn key(&self, code: u16, down: bool) {
//!         println!("key {code}: {down}");
//!     }
//!     fn pointer(&self, pointer: Pointer) {
//!         println!("{pointer:?}");
//!     }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = std::env::temp_dir().join(format!("rfb-example-{}", std::process::id()));
//! let listener = UnixListener::bind(&folder)?;
//! let config = Config { name: "blue".into(), ..Config::default() };
//! let (screen, input) = (Rc::new(Blue), Rc::new(Blue));
//! let server = Server::start(listener, config, screen, input, |event| println!("{event:?}"))?;
//! assert_eq!(server.security().name(), "none");
//! server.stop();
//! # std::fs::remove_file(&folder)?;
//! # Ok(())
//! # }
//! # executor::Executor::new().unwrap().block_on(example()).unwrap();
//! ```
//!
//! # Tests
//!
//! Beside the files (`*_tests.rs`); `testing` is a server with a screen of the test's, and a client that sees
//! every byte.

mod display;
mod failures;
mod frame;
mod keyboard;
pub mod keys;
mod login;
mod password;
pub mod picture;
mod pixel;
mod proto;
mod screen;
mod server;
mod session;
#[cfg(test)]
mod testing;
mod tiles;
mod zrle;

pub use password::{EmptyPassword, PASSWORD_LEN, Password};
pub use screen::{Input, Lamps, Lines, MAX_SIDE, Pointer, Screen, Size};
pub use server::{
    ClientInfo, Config, ConfigError, Endpoint, Event, MAX_CLIENTS, MAX_LOGINS, Security, Server,
};
