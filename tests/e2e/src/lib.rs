//! Trials of the whole program, in `tests/`: with a real guest (`guest`), without one (`disks`, `monitor`) and over NBD
//! (`nbd`). What they share is the crate `harness`.
