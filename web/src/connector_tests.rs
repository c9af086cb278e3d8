use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::io::AsyncReadExt;

use super::{Connector, process};

/// Starts the process's work on a thread.
pub fn connector(sockets: Vec<PathBuf>) -> Connector {
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (own, other): (OwnedFd, OwnedFd) = pair.unwrap();
    std::thread::spawn(move || process::serve(Arc::new(other), &Arc::new(sockets)));
    Connector::over(own).unwrap()
}

/// Plays a machine: a monitor that says where everything is, until the listener is gone.
fn monitor(path: PathBuf, reply: String) -> UnixListener {
    let listener = UnixListener::bind(path).unwrap();
    let own = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = own.accept() {
            let event = r#"{"event": "STOP", "data": {}}"#;
            let ready = r#"{"return": {}, "id": "qmp_capabilities"}"#;
            write!(stream, "{{\"QMP\": {{}}}}\r\n{ready}\r\n{event}\r\n{reply}\r\n").unwrap();
            // Until the client goes.
            std::thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
        }
    });
    listener
}

#[tokio::test]
async fn it_connects_to_what_a_named_monitor_names_and_to_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let console = UnixListener::bind(path("console")).unwrap();
    let line = format!(
        r#"{{"return": [{{"label": "serial0", "filename": "unix:{},server=on"}}], "id": "query-chardev"}}"#,
        path("console").display()
    );
    let _monitor = monitor(path("qmp"), line);
    let connector = connector(vec![path("qmp"), path("none")]);
    let mut stream = connector.connect(0, Some("serial0")).await.unwrap();
    let (mut guest, _): (UnixStream, _) = console.accept().unwrap();
    guest.write_all(b"login:").unwrap();
    let mut got = [0; 6];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"login:");
    // The monitor itself greets.
    let mut stream = connector.connect(0, None).await.unwrap();
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"{\"QMP\"");
    for (machine, pipe) in [
        (0, Some("serial1")),
        (0, Some(path("console").to_str().unwrap())),
        (0, Some("")),
        (1, None),
        (1, Some("serial0")),
        (2, None),
    ] {
        assert!(connector.connect(machine, pipe).await.is_err(), "{machine} {pipe:?}");
    }
}

#[tokio::test]
async fn a_machine_that_says_nothing_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let _silent = UnixListener::bind(path("silent")).unwrap();
    let _other = UnixListener::bind(path("other")).unwrap();
    let connector = connector(vec![path("silent"), path("other")]);
    let waiting = connector.clone();
    let waiting = tokio::spawn(async move { waiting.connect(0, Some("serial0")).await.map(drop) });
    tokio::task::yield_now().await;
    assert!(connector.connect(1, None).await.is_ok());
    assert!(!waiting.is_finished());
    waiting.abort();
}
