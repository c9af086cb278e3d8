//! A VNC client that reads updates and drops them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use harness::Failure;

/// The encoding of plain pixels (RFC 6143, section 7.7.1).
pub const RAW: i32 = 0;
/// The encoding of compressed pixels (RFC 6143, section 7.7.6).
pub const ZRLE: i32 = 16;

/// A client of a server that asks for no password.
pub struct VncClient {
    stream: TcpStream,
    size: [u8; 4],
}

impl VncClient {
    /// Logs in by RFB 3.8, and chooses an encoding: [`RAW`] or [`ZRLE`].
    ///
    /// # Errors
    /// If the connection fails.
    pub fn connect(address: SocketAddr, encoding: i32) -> Result<Self, Failure> {
        let mut client = VncClient { stream: TcpStream::connect(address)?, size: [0; 4] };
        client.stream.set_nodelay(true)?;
        client.bytes(12)?;
        client.stream.write_all(b"RFB 003.008\n")?;
        client.bytes(2)?;
        client.stream.write_all(&[1])?;
        client.bytes(4)?;
        client.stream.write_all(&[1])?;
        let init = client.bytes(24)?;
        client.size.copy_from_slice(&init[..4]);
        client.bytes(u32::from_be_bytes([init[20], init[21], init[22], init[23]]) as usize)?;
        client.stream.write_all(&[2, 0, 0, 1])?;
        client.stream.write_all(&encoding.to_be_bytes())?;
        Ok(client)
    }

    /// Returns another handle of its connection, by which another thread can end it.
    ///
    /// # Errors
    /// If the process is out of descriptors.
    pub fn connection(&self) -> Result<TcpStream, Failure> {
        Ok(self.stream.try_clone()?)
    }

    fn bytes(&mut self, len: usize) -> Result<Vec<u8>, Failure> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Requests the screen, or its changes, and receives an update. Returns its length in bytes.
    ///
    /// # Errors
    /// If the connection ends.
    pub fn update(&mut self, incremental: bool) -> Result<usize, Failure> {
        let request = [&[3, incremental.into(), 0, 0, 0, 0][..], &self.size].concat();
        self.stream.write_all(&request)?;
        let head = self.bytes(4)?;
        let mut len = head.len();
        for _ in 0..u16::from_be_bytes([head[2], head[3]]) {
            let rect = self.bytes(12)?;
            let side = |at: usize| usize::from(u16::from_be_bytes([rect[at], rect[at + 1]]));
            let data = match i32::from_be_bytes([rect[8], rect[9], rect[10], rect[11]]) {
                RAW => 4 * side(4) * side(6),
                _ => {
                    let len = self.bytes(4)?;
                    u32::from_be_bytes([len[0], len[1], len[2], len[3]]) as usize
                }
            };
            self.bytes(data)?;
            len += rect.len() + data;
        }
        Ok(len)
    }
}
