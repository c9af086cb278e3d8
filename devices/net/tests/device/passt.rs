//! passt, the network stack in user space that the stream link is made for, in a network namespace of the
//! test's own.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{UnshareFlags, unshare_unsafe};
use virtio::Device;
use virtio_net::Link;

use super::rig::{HEADER, MAC, RECEIVE, Rig};

/// The guest's address and its router's, as passt must offer them.
const ADDRESS: [u8; 4] = [10, 0, 2, 15];
const ROUTER: [u8; 4] = [10, 0, 2, 2];

/// DHCP (RFC 2131, RFC 2132): the number of an exchange, the mark before its options, and two types of
/// messages.
const EXCHANGE: [u8; 4] = *b"mlrc";
const MARK: [u8; 4] = [99, 130, 83, 99];
const DISCOVER: [u8; 3] = [53, 1, 1];
const OFFER: [u8; 3] = [53, 1, 2];

/// A running passt, killed when dropped.
struct Passt(Child);

impl Passt {
    /// Starts passt for the interface `name`, and connects to it.
    fn start(name: &str, socket: &Path) -> (Self, Link) {
        let mut command = Command::new("passt");
        command.args(["--foreground", "--quiet", "--runas", "0:0", "--interface", name, "--netmask", "24"]);
        command.args(["--address", "10.0.2.15", "--gateway", "10.0.2.2", "--socket"]).arg(socket);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut passt = Passt(child.expect("passt is not installed: install the package passt"));
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match Link::passt(socket) {
                Ok(link) => return (passt, link),
                Err(e) => {
                    let ended = passt.0.try_wait().unwrap();
                    assert!(ended.is_none() && Instant::now() < deadline, "{e}; passt ended: {ended:?}");
                }
            }
            // Nothing reports when it listens.
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns the message of a guest without an address that asks for one.
fn discovery() -> Vec<u8> {
    let mut dhcp = [&[1, 1, 6, 0][..], &EXCHANGE, &[0, 0, 0x80, 0], &[0; 16], &MAC].concat();
    dhcp.resize(236, 0);
    dhcp.extend([&MARK[..], &DISCOVER, &[255]].concat());
    dhcp.resize(300, 0);
    let length = |more: usize| ((dhcp.len() + more) as u16).to_be_bytes();
    let udp = [&[0, 68, 0, 67][..], &length(8), &[0, 0], &dhcp].concat();
    let mut ip = [&[0x45, 0][..], &length(28), &[0, 0, 0, 0, 64, 17, 0, 0], &[0; 4], &[0xff; 4]].concat();
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    ip[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    [&[0xff; 6][..], &MAC, &[8, 0], &ip, &udp].concat()
}

#[test]
#[ignore = "makes a network namespace: needs root"]
fn passt_offers_an_address() {
    // SAFETY: nobody relies on sharing this thread's descriptors or memory mappings, and what it starts to
    // use from here on lies in the new namespace.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
    // passt takes the host's part of its replies from an interface, and a new namespace has none.
    let _outside = Link::tap("outside0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (passt, link) = Passt::start("outside0", &folder.path().join("socket"));
    let mut rig = Rig::on(link, UnixStream::pair().unwrap().0, 0);

    rig.send(&discovery());
    let offer = loop {
        rig.rewind(RECEIVE);
        let room = rig.room(HEADER + 1514);
        let frame = rig.received(room);
        // passt may send more than it was asked for.
        if frame[12..14] == [8, 0] && frame[34..38] == [0, 67, 0, 68] {
            break frame;
        }
    };
    let dhcp = &offer[42..];
    assert_eq!((&dhcp[4..8], &dhcp[16..20], &dhcp[236..240]), (&EXCHANGE[..], &ADDRESS[..], &MARK[..]));
    let has = |option: &[u8]| dhcp[240..].windows(option.len()).any(|window| window == option);
    assert!(has(&OFFER), "{dhcp:x?}");
    assert!(has(&[&[3, 4][..], &ROUTER].concat()), "{dhcp:x?}");

    assert!(rig.link_is_up());
    drop(passt);
    rig.interrupts.wait(|counts| counts.config == 1);
    assert!(!rig.link_is_up());
    rig.device.reset();
}
