//! The measured rows, and their targets.

use crate::files::Base;

/// A row of the table.
pub struct Row {
    pub name: &'static str,
    pub what: &'static str,
    pub job: Job,
    /// The content of the base image.
    pub base: Base,
    /// The size of the base image, as a fraction of the full size.
    pub share: (u64, u64),
    pub leaf: &'static str,
    pub direct: bool,
    pub place: Place,
    pub beside: &'static [Copier],
    pub wanted: &'static [Wanted],
}

/// The job of our program and QEMU's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// From the backing file into the leaf, until its end.
    Stream,
    /// From the base image, as the disk's only one, to a new image, until it is ready.
    Mirror,
}

/// The place for the images of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the folder of the whole run.
    Folder,
    /// On the tmpfs `/dev/shm`.
    Memory,
    /// On a new file system of this kind on a loop device.
    Loop(&'static str),
}

/// The program that copies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Copier {
    Ours,
    Qemu,
    /// `cp --reflink=never`
    Cp,
    /// `dd` with O_DIRECT on both sides
    Dd,
    /// copy_file_range in a loop
    Range,
}

impl Copier {
    pub fn name(self) -> &'static str {
        match self {
            Copier::Ours => "millrace",
            Copier::Qemu => "QEMU",
            Copier::Cp => "cp",
            Copier::Dd => "dd",
            Copier::Range => "copy_file_range",
        }
    }
}

/// A target of a row.
pub enum Wanted {
    /// Our throughput is at least this many times theirs.
    Faster(Copier, f64),
    /// Our CPU seconds are at most this share of theirs.
    Cpu(Copier, f64),
    /// Our copy takes at most this many seconds.
    Seconds(f64),
    /// The leaf is no larger than the data and its tables.
    NoLarger,
}

use Copier::{Cp, Dd, Ours, Qemu, Range};
use Wanted::{Cpu, Faster, NoLarger, Seconds};

/// The factor that counts as 'not slower': within 5 %.
const NOT_SLOWER: f64 = 0.95;

const ON_DISK: Row = Row {
    name: "",
    what: "",
    job: Job::Stream,
    base: Base::Raw { piece: 0, percent: 100 },
    share: (1, 1),
    leaf: "qcow2",
    direct: true,
    place: Place::Folder,
    beside: &[Ours, Qemu, Dd],
    wanted: &[],
};
const CACHED: Row = Row { direct: false, beside: &[Ours, Qemu, Cp, Range], ..ON_DISK };

pub const ROWS: &[Row] = &[
    Row {
        name: "raw-qcow2-direct",
        what: "raw base to qcow2 leaf, O_DIRECT",
        wanted: &[Faster(Qemu, 1.4), Faster(Dd, NOT_SLOWER), Cpu(Qemu, 1.0 / 3.0)],
        ..ON_DISK
    },
    Row {
        name: "raw-qcow2-cache",
        what: "raw base to qcow2 leaf, page cache",
        wanted: &[Faster(Qemu, 1.1), Faster(Cp, 1.0 / 1.1), Cpu(Qemu, 0.6)],
        ..CACHED
    },
    Row {
        name: "raw-qed-direct",
        what: "raw base to QED leaf, O_DIRECT",
        leaf: "qed",
        wanted: &[Faster(Qemu, 1.4)],
        ..ON_DISK
    },
    Row {
        name: "raw-qed-cache",
        what: "raw base to QED leaf, page cache",
        leaf: "qed",
        wanted: &[Faster(Qemu, 2.0)],
        ..CACHED
    },
    Row {
        name: "qcow2-qcow2-direct",
        what: "qcow2 base to qcow2 leaf, O_DIRECT",
        base: Base::Qcow2,
        wanted: &[Faster(Qemu, 1.4)],
        ..ON_DISK
    },
    Row {
        name: "qcow2-qcow2-cache",
        what: "qcow2 base to qcow2 leaf, page cache",
        base: Base::Qcow2,
        wanted: &[Faster(Qemu, 1.1)],
        ..CACHED
    },
    Row {
        name: "hole",
        what: "only a hole, four times the size, to qcow2",
        base: Base::Hole,
        share: (4, 1),
        beside: &[Ours, Qemu],
        wanted: &[Seconds(0.1), NoLarger],
        ..CACHED
    },
    Row {
        name: "half-empty-direct",
        what: "a quarter is data, in pieces of 1 MiB, to qcow2, O_DIRECT",
        base: Base::Raw { piece: 1 << 20, percent: 25 },
        share: (1, 2),
        beside: &[Ours, Qemu],
        wanted: &[Faster(Qemu, 1.8), NoLarger],
        ..ON_DISK
    },
    Row {
        name: "half-empty-cache",
        what: "a quarter is data, in pieces of 1 MiB, to qcow2, page cache",
        base: Base::Raw { piece: 1 << 20, percent: 25 },
        share: (1, 2),
        beside: &[Ours, Qemu, Cp],
        wanted: &[Faster(Qemu, 1.8), NoLarger],
        ..CACHED
    },
    Row {
        name: "fragmented-direct",
        what: "half of the clusters of 64 KiB are data, to qcow2, O_DIRECT",
        base: Base::Raw { piece: 64 << 10, percent: 50 },
        beside: &[Ours, Qemu],
        wanted: &[Faster(Qemu, 1.4), NoLarger],
        ..ON_DISK
    },
    Row {
        name: "fragmented-cache",
        what: "half of the clusters of 64 KiB are data, to qcow2, page cache",
        base: Base::Raw { piece: 64 << 10, percent: 50 },
        beside: &[Ours, Qemu, Cp],
        wanted: &[Faster(Qemu, 1.1), NoLarger],
        ..CACHED
    },
    Row {
        name: "tmpfs",
        what: "raw base to qcow2 leaf on tmpfs",
        share: (1, 2),
        place: Place::Memory,
        wanted: &[Faster(Qemu, 2.0), Faster(Cp, 1.0)],
        ..CACHED
    },
    Row {
        name: "xfs",
        what: "raw base to qcow2 leaf on xfs with reflink",
        share: (1, 2),
        place: Place::Loop("xfs"),
        wanted: &[Faster(Qemu, 100.0)],
        ..CACHED
    },
    Row {
        name: "btrfs",
        what: "raw base to qcow2 leaf on btrfs",
        share: (1, 2),
        place: Place::Loop("btrfs"),
        wanted: &[Faster(Qemu, 100.0)],
        ..CACHED
    },
    Row {
        name: "mirror-direct",
        what: "mirror of a raw image to qcow2 until it is ready, O_DIRECT",
        job: Job::Mirror,
        wanted: &[Faster(Qemu, 1.4), Cpu(Qemu, 0.5)],
        ..ON_DISK
    },
];
