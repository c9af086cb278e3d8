//! Serial ports and screens: bytes between a WebSocket and a machine's socket.
//!
//! A page asks for a pipe on its own WebSocket, which it opened with the token, and gets a ticket. The ticket
//! opens one pipe, soon: noVNC opens its WebSocket itself and must not have the token.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::access;
use crate::connector::Connector;
use crate::machine::Machine;

/// The time in which a ticket must be used.
const TICKET: Duration = Duration::from_secs(30);
/// The most tickets that wait to be used; beyond that the oldest are void.
const MOST: usize = 64;
/// The size of a read, in bytes.
const PIECE: usize = 64 << 10;

/// The end of a pipe on the machine's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(PathBuf);

/// See the module.
#[derive(Default)]
pub struct Tickets(Mutex<VecDeque<(String, Instant, Address)>>);

impl Tickets {
    /// Returns a ticket for a pipe.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn issue(&self, address: Address) -> io::Result<String> {
        let ticket = access::random()?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.truncate(MOST - 1);
        all.push_front((ticket.clone(), Instant::now(), address));
        Ok(ticket)
    }

    /// Takes a ticket. Returns the pipe that it is for.
    pub fn take(&self, ticket: &str) -> Option<Address> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, since, _)| since.elapsed() < TICKET);
        let at = all.iter().position(|(own, ..)| access::same(own, ticket))?;
        all.remove(at).map(|(_, _, address)| address)
    }
}

/// Returns the address of a machine's pipe: `vnc`, or the name of a character device. The machine says it: a
/// page cannot choose a socket.
pub async fn address(machine: &Machine, pipe: &str, may_type: bool) -> Result<Address, String> {
    // Both take input, and nothing here could keep it out.
    if !may_type {
        return Err("the page is read-only".to_owned());
    }
    let command = if pipe == "vnc" { "query-vnc" } else { "query-chardev" };
    let reply = machine.execute(command, &json!({})).await.map_err(|e| e.to_string())?;
    let reply = &reply["return"];
    let path = if pipe == "vnc" {
        let unix = reply["enabled"] == true && reply["family"] == "unix";
        reply["host"].as_str().filter(|_| unix)
    } else {
        let own = |device: &&serde_json::Value| device["label"] == pipe;
        let device = reply.as_array().into_iter().flatten().find(own);
        device.and_then(|device| socket_of(device["filename"].as_str()?))
    };
    path.map(|path| Address(path.into())).ok_or_else(|| format!("'{pipe}' has no Unix socket"))
}

/// Returns the path in a character device's `filename`, as QEMU writes it: `unix:PATH`,
/// `unix:PATH,server=on`, or `disconnected:unix:PATH,server=on`.
fn socket_of(filename: &str) -> Option<&str> {
    let filename = filename.strip_prefix("disconnected:").unwrap_or(filename);
    let path = filename.strip_prefix("unix:")?;
    Some(path.strip_suffix(",server=on").unwrap_or(path))
}

/// Connects to a pipe.
pub async fn connect(connector: &Connector, address: &Address) -> io::Result<UnixStream> {
    connector.connect(&address.0).await
}

/// Carries bytes both ways until either side ends. Each waits for the other: nothing piles up.
pub async fn carry(socket: WebSocket, stream: UnixStream) -> io::Result<()> {
    let (mut out, mut incoming) = socket.split();
    let (mut reader, mut writer) = stream.into_split();
    let from_machine = async {
        let mut piece = vec![0; PIECE];
        loop {
            let len = reader.read(&mut piece).await?;
            if len == 0 {
                let _ = out.close().await;
                return Ok(());
            }
            out.send(Message::Binary(Bytes::copy_from_slice(&piece[..len])))
                .await
                .map_err(io::Error::other)?;
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

#[cfg(test)]
#[path = "pipes_tests.rs"]
mod tests;
