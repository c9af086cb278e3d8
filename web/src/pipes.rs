//! Consoles and screens: bytes between a WebSocket and a machine.
//!
//! A page asks for a pipe on its own WebSocket, which it opened with the token, and gets a ticket. The ticket
//! opens one pipe, soon: noVNC opens its WebSocket itself and must not have the token.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::broadcast::error::RecvError;

use crate::access;
use crate::connector::Stream;
use crate::console::Console;

/// The name of the screen's pipe.
pub const SCREEN: &str = "vnc";
/// The time in which a ticket must be used.
const TICKET: Duration = Duration::from_secs(30);
/// The most tickets that wait to be used; beyond that the oldest are void.
const MOST: usize = 64;
/// The size of a read, in bytes.
const PIECE: usize = 64 << 10;

/// A pipe of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pipe {
    /// The number of the machine.
    pub machine: usize,
    /// [`SCREEN`], or the name of a console.
    pub name: String,
}

/// See the module.
#[derive(Default)]
pub struct Tickets(Mutex<VecDeque<(String, Instant, Pipe)>>);

impl Tickets {
    /// Returns a ticket for a pipe.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn issue(&self, pipe: Pipe) -> io::Result<String> {
        let ticket = access::random()?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.truncate(MOST - 1);
        all.push_front((ticket.clone(), Instant::now(), pipe));
        Ok(ticket)
    }

    /// Takes a ticket. Returns the pipe that it is for.
    pub fn take(&self, ticket: &str) -> Option<Pipe> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, since, _)| since.elapsed() < TICKET);
        let at = all.iter().position(|(own, ..)| access::same(own, ticket))?;
        all.remove(at).map(|(_, _, pipe)| pipe)
    }
}

/// The address of a pipe on the machine's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
}

/// Returns the monitor's command that says where a pipe is.
pub fn command(pipe: &str) -> &'static str {
    if pipe == SCREEN { "query-vnc" } else { "query-chardev" }
}

/// Returns the address of a pipe, by what that command has returned.
pub fn peer(reply: &Value, pipe: &str) -> Option<Peer> {
    if pipe != SCREEN {
        let device = reply.as_array()?.iter().find(|device| device["label"] == pipe)?;
        return socket_of(device["filename"].as_str()?).map(|path| Peer::Unix(path.into()));
    }
    let service = reply["service"].as_str().filter(|_| reply["enabled"] == true)?;
    if reply["family"] == "unix" {
        return Some(Peer::Unix(service.into()));
    }
    let (host, port): (IpAddr, u16) = (reply["host"].as_str()?.parse().ok()?, service.parse().ok()?);
    // A server on all addresses is at this one too. On another one it is somebody else's.
    let host = match host {
        host if host.is_loopback() => host,
        IpAddr::V4(any) if any.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(any) if any.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        _ => return None,
    };
    Some(Peer::Tcp((host, port).into()))
}

/// Returns the path in a character device's `filename`, as QEMU writes it: `unix:PATH`,
/// `unix:PATH,server=on`, or `disconnected:unix:PATH,server=on`.
fn socket_of(filename: &str) -> Option<&str> {
    let filename = filename.strip_prefix("disconnected:").unwrap_or(filename);
    let path = filename.strip_prefix("unix:")?;
    Some(path.strip_suffix(",server=on").unwrap_or(path))
}

/// Carries the bytes of a screen both ways until either side ends. Each waits for the other: nothing piles
/// up.
pub async fn carry(socket: WebSocket, stream: Box<dyn Stream>) -> io::Result<()> {
    let (mut out, mut incoming) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let from_machine = async {
        let mut piece = vec![0; PIECE];
        loop {
            let len = reader.read(&mut piece).await?;
            if len == 0 {
                let _ = out.close().await;
                return Ok(());
            }
            let message = Message::Binary(Bytes::copy_from_slice(&piece[..len]));
            out.send(message).await.map_err(io::Error::other)?;
        }
    };
    let to_machine = async {
        while let Some(message) = incoming.next().await {
            match message.map_err(io::Error::other)? {
                Message::Binary(bytes) => writer.write_all(&bytes).await?,
                Message::Text(text) => writer.write_all(text.as_bytes()).await?,
                Message::Close(_) => break,
                Message::Ping(_) | Message::Pong(_) => (),
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = from_machine => ended,
        ended = to_machine => ended,
    }
}

/// Shows a console to a page until either goes. Only if it `may_type`, what the page sends reaches the guest.
pub async fn show(socket: WebSocket, console: &Console, may_type: bool) {
    let (mut out, mut incoming) = socket.split();
    let Some((kept, mut news)) = console.watch() else { return };
    let printing = async {
        if out.send(Message::Binary(kept.into())).await.is_err() {
            return;
        }
        loop {
            let message = match news.recv().await {
                Ok(bytes) => Message::Binary(bytes),
                Err(RecvError::Closed) => Message::Close(None),
                // It can come again, and sees what is kept.
                Err(RecvError::Lagged(_)) => Message::Close(Some(CloseFrame {
                    code: 1008,
                    reason: "the page reads too slowly".into(),
                })),
            };
            let last = matches!(message, Message::Close(_));
            if out.send(message).await.is_err() || last {
                return;
            }
        }
    };
    let typing = async {
        while let Some(Ok(message)) = incoming.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => Bytes::from(text),
                Message::Close(_) => return,
                Message::Ping(_) | Message::Pong(_) => continue,
            };
            if may_type && !console.enter(bytes).await {
                return;
            }
        }
    };
    tokio::select! {
        () = printing => (),
        () = typing => (),
    }
}

#[cfg(test)]
#[path = "pipes_tests.rs"]
mod tests;
