use std::net::SocketAddr;

use super::*;

fn peer(address: &str) -> Peer {
    Peer::of(&Endpoint::Ip(address.parse::<SocketAddr>().unwrap()))
}

#[test]
fn each_failure_doubles_the_pause_of_its_peer_only() {
    let failures = Failures::default();
    let (one, other) = (peer("10.0.0.1:1"), peer("10.0.0.2:1"));
    let mut now = Duration::from_secs(5);
    assert_eq!(failures.pause(one, now), None);
    for milliseconds in [500, 1000, 2000, 4000, 8000, 10_000, 10_000] {
        failures.failed(one, now);
        assert_eq!(failures.pause(one, now), Some(now + Duration::from_millis(milliseconds)));
        assert_eq!(failures.pause(other, now), None);
        now += Duration::from_millis(milliseconds);
        assert_eq!(failures.pause(one, now), None);
    }
    failures.succeeded(one);
    failures.failed(one, now);
    assert_eq!(failures.pause(one, now), Some(now + FIRST));
}

#[test]
fn peers_are_forgotten_after_a_while_and_bounded_at_once() {
    let failures = Failures::default();
    for n in 0..5000u32 {
        failures.failed(Peer::V4(n.to_be_bytes()), Duration::from_secs(1));
        assert!(failures.peers.borrow().len() <= MAX_PEERS);
    }
    assert_eq!(failures.peers.borrow().len(), MAX_PEERS);
    failures.failed(Peer::Local, Duration::from_secs(1000));
    assert_eq!(failures.peers.borrow().len(), 1);
}

#[test]
fn few_attempts_of_a_peer_wait_at_once() {
    let failures = Failures::default();
    let (one, other) = (peer("10.0.0.1:1"), peer("10.0.0.2:1"));
    let mut places: Vec<_> = (0..MAX_WAITING).map(|_| failures.wait(one).unwrap()).collect();
    assert!(failures.wait(one).is_none());
    assert!(failures.wait(other).is_some());
    places.pop();
    places.push(failures.wait(one).unwrap());
    assert!(failures.wait(one).is_none());
    drop(places);
    assert!(failures.waiting.borrow().is_empty());
}

#[test]
fn a_peer_is_an_address_or_a_network_of_ipv6() {
    assert_eq!(peer("10.0.0.1:1"), peer("10.0.0.1:2"));
    assert_eq!(peer("[::ffff:10.0.0.1]:1"), peer("10.0.0.1:2"));
    assert_eq!(peer("[2001:db8::1]:1"), peer("[2001:db8::ffff:2]:1"));
    assert_ne!(peer("[2001:db8::1]:1"), peer("[2001:db8:0:1::1]:1"));
    assert_eq!(Peer::of(&Endpoint::Unix(None)), Peer::Local);
}
