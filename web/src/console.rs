//! Consoles: what a guest prints, for any number of pages.
//!
//! A console's socket takes one client, so the server is that client, from the first page that opens the
//! console until the machine ends. It reads whatever comes, so that no page ever holds up the guest, and
//! keeps the first and the last MiB: a page that comes late sees how the guest booted, and what it says now.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{broadcast, mpsc};

use crate::connector::{Connector, Stream};

/// The most bytes that are kept of the start, and as many of the end.
const KEPT: usize = 1 << 20;
/// The size of a read, in bytes.
const PIECE: usize = 64 << 10;
/// The pieces that a page may be behind before it is sent away.
const BEHIND: usize = 64;
/// The messages of pages that wait for a guest which does not read.
const TYPED: usize = 16;

/// The first and the last bytes of an output.
#[derive(Default)]
struct History {
    first: Vec<u8>,
    last: VecDeque<u8>,
    /// The number of bytes between them that are not kept.
    left_out: u64,
}

impl History {
    fn add(&mut self, bytes: &[u8]) {
        let (first, rest) = bytes.split_at(bytes.len().min(KEPT - self.first.len()));
        self.first.extend(first);
        self.last.extend(rest);
        let over = self.last.len().saturating_sub(KEPT);
        self.last.drain(..over);
        self.left_out += over as u64;
    }

    /// Returns all that is kept, with a line in between that says what is not.
    fn text(&self) -> Vec<u8> {
        let mut text = self.first.clone();
        if self.left_out > 0 {
            text.extend(format!("\r\n[{} bytes are not kept]\r\n", self.left_out).bytes());
        }
        let (one, other) = self.last.as_slices();
        text.extend(one);
        text.extend(other);
        text
    }
}

/// A console that the server is connected to.
pub struct Console {
    /// Locked while a piece is added and sent, so that a page gets each piece once.
    history: Mutex<History>,
    /// `None` after the console has ended.
    news: Mutex<Option<broadcast::Sender<Bytes>>>,
    typed: mpsc::Sender<Bytes>,
}

impl Console {
    /// Returns what the guest has printed, and what it prints from now on.
    pub fn watch(&self) -> Option<(Vec<u8>, broadcast::Receiver<Bytes>)> {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let news = self.news.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.subscribe();
        Some((history.text(), news))
    }

    /// Types to the guest. Waits while it does not read. Returns false if the console has ended.
    pub async fn enter(&self, bytes: Bytes) -> bool {
        self.typed.send(bytes).await.is_ok()
    }

    fn print(&self, bytes: &[u8]) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.add(bytes);
        let news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        // There may be nobody.
        let _ = news.as_ref().map(|news| news.send(Bytes::copy_from_slice(bytes)));
    }

    /// Serves the console until it ends.
    async fn serve(&self, stream: Box<dyn Stream>, mut typed: mpsc::Receiver<Bytes>) {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let printing = async {
            let mut piece = vec![0; PIECE];
            loop {
                match reader.read(&mut piece).await {
                    Ok(0) | Err(_) => return,
                    Ok(len) => self.print(&piece[..len]),
                }
            }
        };
        let typing = async {
            while let Some(bytes) = typed.recv().await {
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = printing => (),
            () = typing => (),
        }
        *self.news.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The consoles that the server is connected to, by machine and name.
#[derive(Default)]
pub struct Consoles(tokio::sync::Mutex<HashMap<(usize, String), Arc<Console>>>);

impl Consoles {
    /// Returns a console. Connects to it if need be.
    ///
    /// # Errors
    /// Those of [`Connector::connect`].
    pub async fn open(&self, connector: &Connector, machine: usize, name: &str) -> io::Result<Arc<Console>> {
        let mut all = self.0.lock().await;
        all.retain(|_, console| console.news.lock().unwrap_or_else(PoisonError::into_inner).is_some());
        let key = (machine, name.to_owned());
        if let Some(console) = all.get(&key) {
            return Ok(Arc::clone(console));
        }
        let stream = connector.connect(machine, Some(name)).await?;
        let (typed, typing) = mpsc::channel(TYPED);
        let news = Mutex::new(Some(broadcast::channel(BEHIND).0));
        let console = Arc::new(Console { history: Mutex::default(), news, typed });
        let serving = Arc::clone(&console);
        tokio::spawn(async move { serving.serve(stream, typing).await });
        all.insert(key, Arc::clone(&console));
        Ok(console)
    }
}

#[cfg(test)]
#[path = "console_tests.rs"]
mod tests;
