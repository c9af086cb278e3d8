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
        assert!(failures.peers.borrow().records.len() <= MAX_PEERS);
    }
    assert_eq!(failures.peers.borrow().records.len(), MAX_PEERS);
    failures.failed(Peer::Local, Duration::from_secs(1000));
    assert_eq!(failures.peers.borrow().records.len(), 1);
}

#[test]
fn the_networks_of_a_site_slow_down_together() {
    let failures = Failures::default();
    let network = |n: u32| peer(&format!("[2001:db8:7:{:x}::1]:1", n % 65_536));
    let mut now = Duration::from_secs(5);
    for n in 0..16 {
        assert_eq!(failures.pause(network(n), now), None, "many users may be wrong once");
        failures.failed(network(n), now);
    }
    for n in 16..5000 {
        failures.failed(network(n), now);
        now = failures.pause(network(n + 1), now).expect("a pause");
    }
    // 0.5, 1, 2, 4 and 8 seconds, then ten for each.
    assert_eq!(now, Duration::from_millis(5_000 + 15_500 + (4984 - 5) * 10_000));
    // Other sites are free, and one of the networks gains nothing by a success.
    failures.failed(network(1), now);
    failures.succeeded(network(1));
    assert_eq!(failures.pause(network(1), now), Some(now + LONGEST));
    assert_eq!(failures.pause(peer("[2001:db8:8::1]:1"), now), None);
    // The later of both counts.
    for _ in 0..3 {
        failures.failed(peer("[2001:db8:9::1]:1"), now);
    }
    assert_eq!(failures.pause(peer("[2001:db8:9::1]:1"), now), Some(now + 4 * FIRST));
    assert_eq!(failures.pause(peer("[2001:db8:9:1::1]:1"), now), None);
    for n in 0..5000u32 {
        let [a, b, c, d] = n.to_be_bytes();
        failures.failed(Peer::V6([0x20, 1, a, b, c, d, 0, 0]), now);
    }
    assert_eq!(failures.sites.borrow().records.len(), MAX_PEERS);
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
