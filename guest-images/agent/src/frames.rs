//! The protocol between the emulated host's host side and the init of its machine, over one
//! virtio-serial port.
//!
//! A frame is one kind byte, a 32-bit little-endian length, and that many bytes. The host sends one
//! [`Kind::Command`]; the machine sends [`Kind::Stdout`] and [`Kind::Stderr`] as the output appears,
//! then one [`Kind::Exit`] (the status, 4 bytes) or [`Kind::Failed`] (the reason why the command could
//! not be run, as text).

use std::io::{self, Read, Write};
use std::net::Ipv4Addr;

/// The largest payload of a frame, in bytes.
pub const MAX_PAYLOAD: usize = 16 << 20;

/// The address of the machine's network card. QEMU's user network forwards ports of the host to it.
pub const NETWORK_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// The length of the network's prefix, in bits.
pub const NETWORK_PREFIX: u8 = 24;

/// The content of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The command to run: see [`Command`].
    Command = 1,
    /// Bytes of the command's standard output.
    Stdout = 2,
    /// Bytes of the command's standard error.
    Stderr = 3,
    /// The command's exit status, or 128 and the signal that ended it: an `i32`, little-endian.
    Exit = 4,
    /// The reason why there is no exit status, as text.
    Failed = 5,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Kind::Command, Kind::Stdout, Kind::Stderr, Kind::Exit, Kind::Failed]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Writes one frame, in one call if the stream allows it.
pub fn send(stream: &mut impl Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(|_| io::Error::other("frame too long"))?;
    let mut frame = Vec::with_capacity(payload.len() + 5);
    frame.push(kind as u8);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(payload);
    stream.write_all(&frame)
}

/// Reads one frame. Fails with `UnexpectedEof` if the stream ends, within a frame or between two.
pub fn receive(stream: &mut impl Read) -> io::Result<(Kind, Vec<u8>)> {
    let mut header = [0; 5];
    stream.read_exact(&mut header)?;
    let [kind, length @ ..] = header;
    let invalid = |text| io::Error::new(io::ErrorKind::InvalidData, text);
    let kind = Kind::from_byte(kind).ok_or_else(|| invalid("unknown frame"))?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_PAYLOAD {
        return Err(invalid("frame too long"));
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    Ok((kind, payload))
}

/// The command that the emulated host runs. Strings are bytes, because neither arguments nor paths need
/// be UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Command {
    /// The working directory.
    pub cwd: Vec<u8>,
    /// The program and its arguments.
    pub argv: Vec<Vec<u8>>,
    /// The whole environment; each entry is `NAME=VALUE`.
    pub env: Vec<Vec<u8>>,
    /// The TCP ports of the loopback network that the host reaches, by the machine's network interface.
    pub ports: Vec<u16>,
}

impl Command {
    /// The payload of a frame: the numbers of arguments and ports, the ports, then every string, each ended
    /// by a zero byte.
    pub fn to_bytes(&self) -> Vec<u8> {
        let counts = [self.argv.len(), self.ports.len()].into_iter();
        let numbers = counts.chain(self.ports.iter().copied().map(usize::from));
        let numbers: Vec<_> = numbers.map(|number| number.to_string().into_bytes()).collect();
        let strings = numbers.iter().chain([&self.cwd]).chain(&self.argv).chain(&self.env);
        strings.flat_map(|string| string.iter().copied().chain([0])).collect()
    }

    /// Parses the result of [`Command::to_bytes`]; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut strings = bytes.strip_suffix(&[0])?.split(|&byte| byte == 0).map(<[u8]>::to_vec);
        let mut number = || std::str::from_utf8(&strings.next()?).ok()?.parse::<u16>().ok();
        let (count, ports) = (usize::from(number()?), number()?);
        let ports = (0..ports).map(|_| number()).collect::<Option<Vec<_>>>()?;
        let cwd = strings.next()?;
        let argv: Vec<_> = strings.by_ref().take(count).collect();
        (argv.len() == count && count > 0).then(|| Command { cwd, argv, env: strings.collect(), ports })
    }
}

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;
