use serde_json::json;

use super::{MOST, Peer, Pipe, Tickets, peer, socket_of};

fn pipe(name: &str) -> Pipe {
    Pipe { machine: 0, name: name.into() }
}

#[test]
fn a_ticket_opens_one_pipe_once() {
    let tickets = Tickets::default();
    let (one, other) = (tickets.issue(pipe("one")).unwrap(), tickets.issue(pipe("other")).unwrap());
    assert_eq!(tickets.take("guessed"), None);
    assert_eq!(tickets.take(&one), Some(pipe("one")));
    assert_eq!(tickets.take(&one), None);
    assert_eq!(tickets.take(&other), Some(pipe("other")));
}

#[test]
fn tickets_that_nobody_uses_do_not_pile_up() {
    let tickets = Tickets::default();
    let first = tickets.issue(pipe("first")).unwrap();
    for _ in 0..MOST {
        tickets.issue(pipe("more")).unwrap();
    }
    assert_eq!(tickets.take(&first), None);
}

#[test]
fn the_socket_of_a_serial_port_is_in_its_filename() {
    assert_eq!(socket_of("unix:/run/serial,server=on"), Some("/run/serial"));
    assert_eq!(socket_of("disconnected:unix:/run/serial,server=on"), Some("/run/serial"));
    assert_eq!(socket_of("unix:/run/serial"), Some("/run/serial"));
    assert_eq!(socket_of("file"), None);
    assert_eq!(socket_of("null"), None);
    let lines =
        json!([{"label": "serial0", "filename": "null"}, {"label": "c", "filename": "unix:/c,server=on"}]);
    assert_eq!(peer(&lines, "c"), Some(Peer::Unix("/c".into())));
    assert_eq!(peer(&lines, "serial0"), None);
    assert_eq!(peer(&lines, "d"), None);
}

#[test]
fn the_screen_is_where_the_machine_says_on_this_host() {
    let at = |family: &str, host: &str| {
        peer(&json!({"enabled": true, "family": family, "host": host, "service": "5900"}), "vnc")
    };
    let unix = json!({"enabled": true, "family": "unix", "host": "", "service": "/run/vnc"});
    assert_eq!(peer(&unix, "vnc"), Some(Peer::Unix("/run/vnc".into())));
    assert_eq!(at("ipv4", "127.0.0.1"), Some(Peer::Tcp("127.0.0.1:5900".parse().unwrap())));
    assert_eq!(at("ipv4", "0.0.0.0"), Some(Peer::Tcp("127.0.0.1:5900".parse().unwrap())));
    assert_eq!(at("ipv6", "::"), Some(Peer::Tcp("[::1]:5900".parse().unwrap())));
    assert_eq!(at("ipv4", "192.0.2.1"), None);
    assert_eq!(at("ipv4", "elsewhere"), None);
    assert_eq!(peer(&json!({"enabled": false}), "vnc"), None);
}
