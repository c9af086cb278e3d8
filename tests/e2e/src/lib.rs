//! Tests of the whole program, in `tests/`: with a real guest (`guest`), without one (`disks`,
//! `monitor`) and over NBD (`nbd`). Their common code is the crate `harness`.
