//! The server side of RFB, the protocol of VNC: shows a screen to clients, and takes their keys and pointers.
//!
//! # Modules, in reading order
//!
//! - `screen`: the screen that is shown, and the receiver of keys and pointers
//! - `password`: a password that may change while the server runs
//! - [`keys`]: keysyms and scancodes as Linux's key codes
//! - [`picture`]: a screen as a PNG or PPM file
//! - `server`: the configuration, the clients, and their events
//!
//! # Tests
//!
//! Beside the files (`*_tests.rs`).

pub mod keys;
mod password;
pub mod picture;
mod screen;
mod server;

pub use password::{EmptyPassword, PASSWORD_LEN, Password};
pub use screen::{Input, Lines, MAX_SIDE, Pointer, Screen, Size};
pub use server::{ClientInfo, Config, ConfigError, Endpoint, Event, Security, Server};
