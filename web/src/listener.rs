//! Connections of browsers: bounded in number, and in the time in which they have to become useful.
//!
//! Whoever reaches the port may open connections without a token. A connection that has not become a
//! WebSocket of a page ends after a while, so that such connections do not use up the places of others.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// The most connections at once; the next one waits to be accepted.
const MOST: usize = 128;
/// [`Bounded::patience`] of the server.
const PATIENCE: Duration = Duration::from_secs(20);

/// A listener with a limited number of connections.
pub struct Bounded<L> {
    inner: L,
    places: Arc<Semaphore>,
    /// The time that a connection has, unless it is kept.
    patience: Duration,
}

impl<L> Bounded<L> {
    /// Limits `inner`.
    pub fn new(inner: L) -> Self {
        Bounded { inner, places: Arc::new(Semaphore::new(MOST)), patience: PATIENCE }
    }
}

/// A mark that a connection is a page's WebSocket, and may stay.
#[derive(Clone, Default)]
pub struct Keep(Arc<AtomicBool>);

impl Keep {
    /// Lets the connection stay.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<L: Listener> Connected<IncomingStream<'_, Bounded<L>>> for Keep {
    fn connect_info(stream: IncomingStream<'_, Bounded<L>>) -> Self {
        stream.io().keep.clone()
    }
}

/// A connection. See [`Bounded`].
pub struct Connection<S> {
    inner: S,
    keep: Keep,
    end: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl<L: Listener> Listener for Bounded<L> {
    type Io = Connection<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
            // Nobody closes the semaphore.
            return std::future::pending().await;
        };
        let (inner, address) = self.inner.accept().await;
        let (keep, end) = (Keep::default(), Box::pin(sleep(self.patience)));
        (Connection { inner, keep, end, _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

impl<S> Connection<S> {
    /// Fails when the connection's time is up.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let up = !self.keep.0.load(Ordering::Relaxed) && self.end.as_mut().poll(context).is_ready();
        if up { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
