//! NBD exports of the real program, `millrace run --machine none`, with programs of other people as
//! clients and judges (QEMU's tools, libnbd's, and fio), and as servers (nbdkit, qemu-nbd).

mod client;
mod copy_on_read;
mod ends;
mod judges;
mod live;
mod map;
mod rig;
mod server;
mod shell;
mod streams;
mod tls;
