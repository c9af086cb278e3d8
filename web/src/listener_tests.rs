use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::{Bounded, Listener, MOST, PATIENCE};

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

#[tokio::test(start_paused = true)]
async fn connections_that_are_of_no_use_end_and_make_room() {
    let mut listener = Bounded::new(Crowd::default());
    let mut all = Vec::new();
    for _ in 0..MOST {
        all.push(listener.accept().await.0);
    }
    assert!(tokio::time::timeout(PATIENCE / 2, listener.accept()).await.is_err(), "there is no place");
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
