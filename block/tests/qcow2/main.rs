//! The rest of qcow2, checked with QEMU's tools: compressed clusters, check and repair, map, resize,
//! create options. Needs `qemu-img` and `qemu-io`.

mod bitmaps;
mod check;
mod compressed;
mod create;
mod discard;
mod map;
mod overlap;
mod support;
