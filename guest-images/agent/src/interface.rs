//! Network interfaces: adds addresses, brings interfaces up, and deletes them. For guests and the
//! emulated host, which have no tools for that.
//!
//! Uses `rtnetlink(7)`: one request, and one reply with an error number.

use std::fs;
use std::io;
use std::net::Ipv4Addr;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink};

/// Values of `linux/netlink.h`.
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
/// Values of `linux/rtnetlink.h`, `linux/if_addr.h` and `linux/if.h`.
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFF_UP: u32 = 1;
const IFLA_MTU: u16 = 4;
/// The value of `linux/socket.h`.
const AF_INET: u8 = 2;

/// The length of a message's header, in bytes: length, type, flags, sequence number and sender. The last
/// two stay 0.
const HEADER: usize = 16;

/// Brings the interface `name` up.
///
/// # Errors
/// `NotFound` if the interface does not exist, and the kernel's error.
pub fn up(name: &str) -> io::Result<()> {
    link(RTM_NEWLINK, name, IFF_UP, &[])
}

/// Sets the MTU of the interface `name`, in bytes.
///
/// # Errors
/// As [`up`].
pub fn set_mtu(name: &str, bytes: u32) -> io::Result<()> {
    link(RTM_NEWLINK, name, 0, &attribute(IFLA_MTU, bytes.to_ne_bytes()))
}

/// Deletes the interface `name`.
///
/// # Errors
/// As [`up`].
pub fn delete(name: &str) -> io::Result<()> {
    link(RTM_DELLINK, name, 0, &[])
}

/// Adds an address to the interface `name`. The network prefix has `prefix` bits.
///
/// # Errors
/// As [`up`].
pub fn add_address(name: &str, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let mut body = vec![AF_INET, prefix, 0, 0];
    body.extend(index(name)?.to_ne_bytes());
    for kind in [IFA_LOCAL, IFA_ADDRESS] {
        body.extend(attribute(kind, address.octets()));
    }
    ask(RTM_NEWADDR, NLM_F_CREATE, &body)
}

/// Changes the interface itself: sets these flags and attributes.
fn link(kind: u16, name: &str, flags: u32, attributes: &[u8]) -> io::Result<()> {
    // Any family, any type.
    let mut body = vec![0; 4];
    body.extend(index(name)?.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(attributes);
    ask(kind, 0, &body)
}

/// An attribute with a value of four bytes.
fn attribute(kind: u16, value: [u8; 4]) -> Vec<u8> {
    [&8_u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &value].concat()
}

fn index(name: &str) -> io::Result<u32> {
    let text = fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))?;
    text.trim().parse().map_err(io::Error::other)
}

fn ask(kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    // Protocol 0 is NETLINK_ROUTE.
    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    rustix::net::sendto(&socket, &message, SendFlags::empty(), &netlink::SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 4096];
    let (count, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    outcome(&answer[..count])
}

/// The outcome that the kernel's reply reports.
fn outcome(answer: &[u8]) -> io::Result<()> {
    let field = |at: usize| answer.get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    let (Some([low, high, ..]), Some(error)) = (field(4), field(HEADER)) else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    match (u16::from_ne_bytes([low, high]), i32::from_ne_bytes(error)) {
        (NLMSG_ERROR, 0) => Ok(()),
        (NLMSG_ERROR, error) => Err(io::Error::from_raw_os_error(-error)),
        (kind, _) => Err(io::Error::other(format!("unexpected netlink message of type {kind}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let message = |kind: u16, error: i32| {
            [&36_u32.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], &error.to_ne_bytes()].concat()
        };
        assert!(outcome(&message(NLMSG_ERROR, 0)).is_ok());
        let refused = outcome(&message(NLMSG_ERROR, -1)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(outcome(&message(3, 0)).is_err());
        assert!(outcome(&message(NLMSG_ERROR, 0)[..19]).is_err());
    }

    #[test]
    fn an_interface_that_is_not_there_is_told() {
        for result in [
            up("no-such-link"),
            delete("no-such-link"),
            add_address("no-such-link", [192, 0, 2, 1].into(), 24),
        ] {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }
}
