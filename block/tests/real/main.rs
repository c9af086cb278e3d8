//! Disks on real files, checked with other programs.

mod file;
mod kill;
mod leaks;
mod locks;
mod memory;
mod nbd;
mod qed;
mod qed_check;
mod qemu;
mod ring;
mod shared;
mod support;
