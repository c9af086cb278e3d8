//! NBD exports of the real program, `millrace run --machine none`, with other programs as clients that
//! check them (QEMU's tools, libnbd's, and fio), and with other servers (nbdkit, qemu-nbd).

mod backup;
mod blockcopy;
mod client;
mod commit;
mod copy_on_read;
mod ends;
mod judges;
mod live;
mod lost;
mod map;
mod mirror;
mod null;
mod rig;
mod server;
mod shell;
mod streams;
mod tls;
