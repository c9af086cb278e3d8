//! Tests of the whole program `millrace`, as a user runs it. This crate has no code of its own; what the
//! tests share is the crate `harness`.
//!
//! # Tests, in reading order
//!
//! - `tests/disks/`: the program without a machine: copies, switches, jobs, crashes, images
//! - `tests/monitor/`: the monitor against QEMU's, and through clients by other authors
//! - `tests/nbd/`: exports and images over NBD, with other authors' clients and servers
//! - `tests/viewers/`: the VNC server with viewers by other authors, on a screen of the test's
//! - `tests/guest/`: real guests on our machine; on a host without a usable KVM, in the emulated host
//!
//! Each folder's `main.rs` lists its files; each file begins with what it tests.
