//! The network as a guest uses it: an address, a connection, and the state of the cable.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use guest_agent::interface;
use sha2::{Digest, Sha256};

/// The largest number of bytes that are stored to be sent back.
const MOST: u64 = 64 << 20;
/// The longest time that the other side may be silent.
const SILENCE: Duration = Duration::from_secs(30);

/// Sets an interface's address and MTU, and brings it up.
pub fn up(name: &str, address: Ipv4Addr, prefix: u8, mtu: u32) -> Result<(), String> {
    let done = interface::add_address(name, address, prefix)
        .and_then(|()| interface::set_mtu(name, mtu))
        .and_then(|()| interface::up(name));
    done.map_err(|error| format!("{name}: {error}"))
}

/// Connects to `address`, receives `length` bytes (at most [`MOST`]) and sends them back. Returns their
/// number, and their SHA-256 as hexadecimal digits.
pub fn echo(address: SocketAddr, length: u64) -> Result<(usize, String), String> {
    let mut bytes = Vec::new();
    let echoed = TcpStream::connect_timeout(&address, SILENCE).and_then(|mut stream| {
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        (&stream).take(length.min(MOST)).read_to_end(&mut bytes)?;
        stream.write_all(&bytes)?;
        stream.shutdown(Shutdown::Write)
    });
    echoed.map_err(|error| format!("{address}, after {} bytes: {error}", bytes.len()))?;
    let hash = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((bytes.len(), hash))
}

/// Returns true if the interface, which must be up, has a cable.
pub fn has_carrier(name: &str) -> Result<bool, String> {
    let path = format!("/sys/class/net/{name}/carrier");
    fs::read_to_string(&path).map(|text| text.trim() == "1").map_err(|error| format!("{path}: {error}"))
}
