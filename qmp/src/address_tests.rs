//! Addresses, and socket files that are left, taken or in the way.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use super::*;

#[test]
fn addresses_are_read_and_shown() {
    for text in ["unix:/run/a:b.sock", "unix:/run/a,,b.sock", "tcp:localhost:4444", "tcp:[::1]:0"] {
        assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
    }
    assert!(matches!("tcp::1".parse::<Address>(), Err(AddressError::NoHost(_))));
    for text in ["", "unix:", "tcp:localhost", "tcp:localhost:x", "/run/a.sock", "tcp:h:65536"] {
        assert!(matches!(text.parse::<Address>(), Err(AddressError::Syntax(_))), "{text}");
    }
}

#[test]
fn qemus_options_are_understood_or_refused_and_never_part_of_a_name() {
    let path = Address::Unix("/run/a.sock".into());
    for options in ["", ",server=on,wait=off", ",server,nowait", ",server", ",wait=off"] {
        assert_eq!(format!("unix:/run/a.sock{options}").parse::<Address>().unwrap(), path, "{options}");
    }
    assert_eq!("unix:/a,,b,server".parse::<Address>().unwrap(), Address::Unix("/a,b".into()));
    let tcp = "tcp:localhost:1,server=on,wait=off".parse::<Address>().unwrap();
    assert_eq!(tcp, Address::Tcp("localhost:1".into()));
    for options in ["server=off", "wait=on", "wait", "telnet=on", "", "b.sock", "reconnect=1"] {
        let error = format!("unix:/run/a.sock,{options}").parse::<Address>().unwrap_err();
        assert!(matches!(error, AddressError::Option(..)), "{options}: {error}");
    }
}

#[test]
fn a_socket_file_is_private_and_removed_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.sock");
    let listener = Listener::bind(&Address::Unix(path.clone())).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(listener.address(), Some(Address::Unix(path.clone())));
    drop(listener);
    assert!(!path.exists());
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.sock");
    let address = Address::Unix(path.clone());
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let live = Listener::bind(&address).unwrap();
    assert!(matches!(Listener::bind(&address), Err(AddressError::InUse(_))));
    drop(live);

    // A live listener that has no room for another client is neither waited for nor replaced.
    let full = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    full.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    full.listen(0).unwrap();
    let _clients: Vec<_> = (0..2).map(|_| fill(&path)).collect();
    assert!(matches!(Listener::bind(&address), Err(AddressError::InUse(_))));
    drop(full);
    std::fs::remove_file(&path).unwrap();

    std::fs::write(&path, "data").unwrap();
    assert!(matches!(Listener::bind(&address), Err(AddressError::NoSocket(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"data");
}

/// Connects, or finds the backlog full.
fn fill(path: &std::path::Path) -> Socket {
    let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    client.set_nonblocking(true).unwrap();
    let connected = client.connect(&SockAddr::unix(path).unwrap());
    assert!(connected.is_ok() || connected.unwrap_err().kind() == io::ErrorKind::WouldBlock);
    client
}

#[test]
fn a_file_that_is_not_ours_any_more_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.sock");
    let listener = Listener::bind(&Address::Unix(path.clone())).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "another's").unwrap();
    drop(listener);
    assert!(path.exists());
}

#[test]
fn a_tcp_listener_tells_the_port_it_got() {
    let listener = Listener::bind(&"tcp:127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.address().unwrap();
    assert_ne!(address.to_string(), "tcp:127.0.0.1:0");
    address.connect().unwrap();
}

#[test]
#[ignore = "needs root"]
fn sockets_are_given_to_a_user_and_nothing_that_took_their_place_is() {
    const NOBODY: u32 = 65534;
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let bind = |name| Listener::bind(&Address::Unix(path(name))).unwrap();
    let (_kept, _replaced, _linked, _gone) = (bind("kept"), bind("replaced"), bind("linked"), bind("gone"));
    // The owner of the folder may do this meanwhile.
    std::fs::write(path("precious"), "root's").unwrap();
    for name in ["replaced", "linked", "gone"] {
        std::fs::remove_file(path(name)).unwrap();
    }
    std::fs::hard_link(path("precious"), path("replaced")).unwrap();
    std::os::unix::fs::symlink(path("precious"), path("linked")).unwrap();
    give_sockets(NOBODY, NOBODY).unwrap();
    let kept = path("kept").symlink_metadata().unwrap();
    assert_eq!((kept.uid(), kept.gid(), kept.mode() & 0o777), (NOBODY, NOBODY, 0o600));
    for name in ["precious", "replaced", "linked"] {
        assert_eq!(path(name).symlink_metadata().unwrap().uid(), 0, "{name}");
    }
}
