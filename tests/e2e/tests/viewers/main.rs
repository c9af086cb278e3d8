//! The VNC server with viewers by other authors: they must show its screen pixel for pixel, and must not get
//! in with a wrong password. The screen is a pattern of the test's; a guest's screen is tested in
//! `tests/screen`.

mod refusals;
mod rig;
mod shows;
mod tls;
