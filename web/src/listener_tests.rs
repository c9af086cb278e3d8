use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::Semaphore;

use super::{Bounded, Listener};

/// A listener to which somebody connects again and again; the other ends are kept.
#[derive(Default)]
struct Crowd(Vec<DuplexStream>);

impl Listener for Crowd {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        let (own, other) = duplex(16);
        self.0.push(other);
        (own, ())
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn connections_that_are_of_no_use_end_and_make_room() {
    let places = Arc::new(Semaphore::new(2));
    let patience = Duration::from_millis(50);
    let mut listener = Bounded { inner: Crowd::default(), places, patience };
    let mut all = Vec::new();
    for _ in 0..2 {
        all.push(listener.accept().await.0);
    }
    assert!(listener.accept().now_or_never().is_none(), "there is no place");
    let kept = all.remove(0);
    kept.keep.set();
    let mut bytes = [0; 4];
    let mut idle = all.remove(0);
    assert_eq!(idle.read(&mut bytes).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    // It has no time left for its answer either.
    assert_eq!(idle.write(b"late").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    drop(idle);
    listener.accept().await;
    let mut kept = kept;
    listener.inner.0[0].write_all(b"news").await.unwrap();
    kept.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"news");
}
