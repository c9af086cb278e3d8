use axum::body::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{broadcast, mpsc};

use super::{BEHIND, Console, History, KEPT, Mutex, TYPED};

#[test]
fn the_first_and_the_last_mib_are_kept() {
    let mut history = History::default();
    history.add(b"boot\n");
    assert_eq!(history.text(), b"boot\n");
    let noise = vec![b'.'; KEPT];
    for _ in 0..3 {
        history.add(&noise);
    }
    history.add(b"now");
    let text = history.text();
    assert!(text.starts_with(b"boot\n.") && text.ends_with(b".now"));
    let left_out = 5 + 3 * KEPT + 3 - 2 * KEPT;
    assert!(String::from_utf8(text).unwrap().contains(&format!("\n[{left_out} bytes are not kept]\r")));
}

#[tokio::test]
async fn pages_that_come_late_or_read_nothing_hold_nobody_up() {
    let (machine, stream) = tokio::io::duplex(1 << 16);
    let (mut output, mut guest) = tokio::io::split(machine);
    let (typed, typing) = mpsc::channel(TYPED);
    let news = Mutex::new(Some(broadcast::channel(BEHIND).0));
    let console = Console { history: Mutex::default(), news, typed };
    let test = async {
        let (_, mut lazy) = console.watch().unwrap();
        guest.write_all(b"early ").await.unwrap();
        let (mut seen, mut late) = console.watch().unwrap();
        while !seen.ends_with(b"early ") {
            seen.extend(late.recv().await.unwrap());
        }
        // Far more than pieces are kept for a page that does not read.
        for _ in 0..4 * BEHIND {
            guest.write_all(&[b'.'; 1 << 16]).await.unwrap();
        }
        let mut seen = vec![];
        while seen.len() < 1 << 16 {
            match late.recv().await {
                Ok(bytes) => seen.extend(bytes),
                Err(broadcast::error::RecvError::Lagged(_)) => (),
                Err(e) => panic!("{e}"),
            }
        }
        assert!(matches!(lazy.recv().await, Err(broadcast::error::RecvError::Lagged(_))));
        assert!(console.watch().unwrap().0.starts_with(b"early "));
        assert!(console.enter(Bytes::from_static(b"typed")).await);
        let mut got = [0; 5];
        output.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"typed");
        drop((output, guest));
    };
    tokio::join!(console.serve(Box::new(stream), typing), test);
    assert!(console.watch().is_none());
    assert!(!console.enter(Bytes::new()).await);
}
