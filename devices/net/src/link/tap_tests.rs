//! A tap interface of this host's kernel, in a network namespace of the test's own.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use buf::Buf;
use executor::{AsyncFd, Executor, timeout};
use rustix::net::{AddressFamily, SendFlags, SocketType, netlink, sendto, socket};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::*;
use crate::link::Link;

/// `linux/sockios.h`.
const SIOCSIFFLAGS: Opcode = 0x8914;
const SIOCSIFADDR: Opcode = 0x8916;
const SIOCGIFINDEX: Opcode = 0x8933;
const IFF_UP: u16 = 1;

/// IPv4 addresses: the host's, the broadcast address, and the guest's.
const HOST: [u8; 4] = [192, 0, 2, 1];
const ALL: [u8; 4] = [192, 0, 2, 255];
const GUEST: [u8; 4] = [192, 0, 2, 2];

const STUCK: Duration = Duration::from_secs(20);

fn ask<const OPCODE: Opcode>(flags: u16, rest: &[u8]) -> InterfaceRequest {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
    let mut request = InterfaceRequest { name: [0; NAME], flags, rest: [0; 22] };
    request.name[..4].copy_from_slice(b"tap7");
    request.rest[..rest.len()].copy_from_slice(rest);
    // SAFETY: each of these requests reads and writes one `struct ifreq`.
    unsafe { ioctl(socket.as_fd(), Updater::<OPCODE, _>::new(&mut request)) }.unwrap();
    request
}

/// Deletes the interface, as `ip link del` does (`rtnetlink(7)`).
fn delete() {
    const RTM_DELLINK: u16 = 17;
    const NLM_F_REQUEST: u16 = 1;
    let found = ask::<SIOCGIFINDEX>(0, &[]);
    let [low, high] = found.flags.to_ne_bytes();
    let index = [low, high, found.rest[0], found.rest[1]];
    let mut message = Vec::new();
    message.extend(32_u32.to_ne_bytes());
    message.extend(RTM_DELLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 12]);
    message.extend(index);
    message.extend([0; 8]);
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, None).unwrap();
    sendto(&socket, &message, SendFlags::empty(), &netlink::SocketAddrNetlink::new(0, 0)).unwrap();
}

/// Returns a broadcast from the guest to a UDP port.
fn datagram(port: u16, text: &[u8]) -> Vec<u8> {
    let length = |more: usize| ((text.len() + more) as u16).to_be_bytes();
    let mut ip = [&[0x45, 0][..], &length(28), &[0, 0, 0, 0, 64, 17, 0, 0], &GUEST, &ALL].concat();
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    ip[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    let ethernet = [&[0xff; 6][..], &[0x52, 0x54, 0, 0, 0, 1], &[8, 0]].concat();
    [
        ethernet,
        ip,
        9_u16.to_be_bytes().into(),
        port.to_be_bytes().into(),
        length(8).into(),
        vec![0, 0],
        text.into(),
    ]
    .concat()
}

#[test]
#[ignore = "makes a network interface: needs root"]
fn frames_pass_until_the_interface_is_deleted() {
    // SAFETY: nobody relies on sharing this thread's descriptors or memory mappings, and what it starts to
    // use from here on lies in the new namespace.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
    let link = Link::tap("tap7").unwrap();
    assert_eq!(Link::tap("tap7").err().unwrap().kind(), io::ErrorKind::ResourceBusy);
    Executor::new().unwrap().block_on(async move {
        let link = AsyncFd::new(Arc::new(link)).unwrap();
        // An interface that is down loses frames without an error.
        link.get().put(&Buf::from_bytes(&datagram(9, b"lost")));
        Link::send(&link).await.unwrap();

        // AF_INET and a port, then the address.
        ask::<SIOCSIFADDR>(2, &[&[0, 0], &HOST[..]].concat());
        ask::<SIOCSIFFLAGS>(IFF_UP, &[]);
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(STUCK)).unwrap();
        socket.set_broadcast(true).unwrap();
        let port = socket.local_addr().unwrap().port();
        link.get().put(&Buf::from_bytes(&datagram(port, b"from the guest")));
        Link::send(&link).await.unwrap();
        let mut text = [0; 100];
        let (count, from) = socket.recv_from(&mut text).unwrap();
        assert_eq!((&text[..count], from.to_string().as_str()), (&b"from the guest"[..], "192.0.2.2:9"));

        socket.send_to(b"from the host", "192.0.2.255:9").unwrap();
        loop {
            timeout(STUCK, Link::receive(&link)).await.expect("a frame").unwrap();
            // The kernel sends other frames, too, on a new interface.
            let is_ours = link.get().received(|frame| frame.ends_with(b"from the host"));
            link.get().drop_received();
            if is_ours {
                break;
            }
        }

        delete();
        let end = async {
            while Link::receive(&link).await.is_ok() {
                link.get().drop_received();
            }
        };
        timeout(STUCK, end).await.expect("the end of the interface is noticed");
        link.get().put(&Buf::from_bytes(&datagram(port, b"too late")));
        assert!(Link::send(&link).await.is_err());
    });
}

#[test]
fn what_is_no_name_is_refused() {
    for name in ["", "a name", "tap%d", "../x", "sixteen-letters-"] {
        assert_eq!(open(name).err().unwrap().kind(), io::ErrorKind::InvalidInput, "{name}");
    }
}
