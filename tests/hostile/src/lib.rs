//! Hostile input: an entry point for each interface that receives it, for fuzzers and for a short test.
//!
//! An entry point takes any bytes, does with them what the program would do, and returns. It must not
//! panic, hang, or ask for more memory than the input's size justifies; its caller checks that. Its
//! behaviour depends on the bytes alone, so a file with them replays a failure:
//! `cargo run -p hostile --example replay -- TARGET FILE`.
//!
//! To add an entry point, add a module with it and its corpus, a line in [`TARGETS`], a file in
//! `fuzz/fuzz_targets`, and its name in `fuzz/Cargo.toml`.
//!
//! # Modules, in reading order
//!
//! - `image`: images of the formats with metadata; `watched`: the storage below them, with checks
//! - `nbd`: messages of an NBD client and of a server
//! - `monitor`: bytes of a monitor's client; `screen`: of a VNC client; `page`: of the page's browsers and
//!   machines
//! - `machine`: a guest's writes to registers, rings and I/O ports
//! - `blk`, `net`, `scsi`, `console`, `input`: a guest's requests to its devices; `chains`: the chains that
//!   they share
//! - [`mutate`]: seeded mutations of valid input
//!
//! # Tests
//!
//! `tests/short.rs` runs every target on its corpus and on some mutations. `fuzz/` is a workspace of its
//! own for cargo-fuzz; `examples/corpus.rs` writes its corpora, `examples/replay.rs` replays a file.

mod blk;
mod chains;
mod console;
mod image;
mod input;
mod machine;
mod monitor;
pub mod mutate;
mod nbd;
mod net;
mod page;
mod screen;
mod scsi;
mod watched;

pub use blk::blk;
pub use console::{console, rng};
pub use image::{qcow2, qed};
pub use input::input;
pub use machine::machine;
pub use monitor::qmp;
pub use nbd::{nbd_client, nbd_server};
pub use net::net;
pub use page::{page, page_machine};
pub use screen::vnc;
pub use scsi::scsi;

/// An entry point for hostile input.
pub struct Target {
    /// The name, also of the fuzz target.
    pub name: &'static str,
    /// The entry point.
    pub run: fn(&[u8]),
    /// Returns valid inputs, from which mutations start.
    pub corpus: fn() -> Vec<Vec<u8>>,
    /// Returns the memory, in bytes, that may be in use at once for an input of this many bytes.
    pub memory: fn(usize) -> usize,
}

/// All entry points.
pub const TARGETS: &[Target] = &[
    Target { name: "qcow2", run: qcow2, corpus: image::qcow2_corpus, memory: image::memory },
    Target { name: "qed", run: qed, corpus: image::qed_corpus, memory: image::memory },
    Target { name: "nbd_server", run: nbd_server, corpus: nbd::server_corpus, memory: nbd::memory },
    Target { name: "nbd_client", run: nbd_client, corpus: nbd::client_corpus, memory: nbd::memory },
    Target { name: "vnc", run: vnc, corpus: screen::corpus, memory: screen::memory },
    Target { name: "page", run: page, corpus: page::browser_corpus, memory: page::memory },
    Target { name: "page_machine", run: page_machine, corpus: page::machine_corpus, memory: page::memory },
    Target { name: "qmp", run: qmp, corpus: monitor::corpus, memory: monitor::memory },
    Target { name: "machine", run: machine, corpus: machine::corpus, memory: machine::memory },
    Target { name: "blk", run: blk, corpus: blk::corpus, memory: blk::memory },
    Target { name: "net", run: net, corpus: net::corpus, memory: net::memory },
    Target { name: "scsi", run: scsi, corpus: scsi::corpus, memory: scsi::memory },
    Target { name: "console", run: console, corpus: console::corpus, memory: console::memory },
    Target { name: "rng", run: rng, corpus: console::corpus, memory: console::memory },
    Target { name: "input", run: input, corpus: input::corpus, memory: input::memory },
];
