//! Disks on real files, judged by other people's programs.

mod file;
mod kill;
mod leaks;
mod locks;
mod memory;
mod qed;
mod qed_check;
mod qemu;
mod ring;
mod shared;
mod support;
