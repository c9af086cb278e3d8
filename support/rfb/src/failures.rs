//! Failed logins slow down whoever causes them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::server::Endpoint;

/// The pause after a first failure. Each further one doubles it.
const FIRST: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(10);
/// The time after the end of its pause at which a peer is forgotten.
const FORGET: Duration = Duration::from_secs(600);
/// The most peers that are remembered. Then the one whose pause ends first is forgotten.
const MAX_PEERS: usize = 1024;
/// The most attempts of one peer that wait for their judgement.
pub(crate) const MAX_WAITING: usize = 4;

/// The part of a peer's address that one user can hardly change: of IPv6 the network, whose other half
/// everybody chooses freely. All users of a Unix socket are one peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Peer {
    Local,
    V4([u8; 4]),
    V6([u8; 8]),
}

impl Peer {
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        match endpoint {
            Endpoint::Unix(_) => Peer::Local,
            Endpoint::Ip(address) => match address.ip().to_canonical() {
                IpAddr::V4(address) => Peer::V4(address.octets()),
                IpAddr::V6(address) => {
                    let [a, b, c, d, e, f, g, h, ..] = address.octets();
                    Peer::V6([a, b, c, d, e, f, g, h])
                }
            },
        }
    }
}

struct Record {
    failures: u32,
    /// The time from which on the next attempt is judged.
    until: Duration,
}

/// The failures of all peers, by the executor's clock.
#[derive(Default)]
pub(crate) struct Failures {
    peers: RefCell<BTreeMap<Peer, Record>>,
    /// The numbers of attempts that wait. A peer without one has no entry.
    waiting: RefCell<BTreeMap<Peer, usize>>,
}

/// The place of an attempt that waits for its judgement.
pub(crate) struct Waiting<'a> {
    failures: &'a Failures,
    peer: Peer,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.failures.waiting.borrow_mut();
        if let Some(count @ 2..) = waiting.get_mut(&self.peer) {
            *count -= 1;
        } else {
            waiting.remove(&self.peer);
        }
    }
}

impl Failures {
    /// Returns the time at which an attempt of that peer may be judged, if it is not now.
    pub(crate) fn pause(&self, peer: Peer, now: Duration) -> Option<Duration> {
        self.peers.borrow().get(&peer).map(|record| record.until).filter(|until| *until > now)
    }

    /// Returns a place for an attempt that must wait, or nothing if [`MAX_WAITING`] of that peer wait already.
    pub(crate) fn wait(&self, peer: Peer) -> Option<Waiting<'_>> {
        let mut waiting = self.waiting.borrow_mut();
        let count = waiting.entry(peer).or_default();
        (*count < MAX_WAITING).then(|| {
            *count += 1;
            Waiting { failures: self, peer }
        })
    }

    /// Records a failed attempt.
    pub(crate) fn failed(&self, peer: Peer, now: Duration) {
        let mut records = self.peers.borrow_mut();
        records.retain(|_, record| now < record.until + FORGET);
        if records.len() == MAX_PEERS && !records.contains_key(&peer) {
            let first = records.iter().min_by_key(|(_, record)| record.until).map(|(peer, _)| *peer);
            first.map(|first| records.remove(&first));
        }
        let record = records.entry(peer).or_insert(Record { failures: 0, until: now });
        let pause = FIRST.saturating_mul(1 << record.failures.min(16)).min(LONGEST);
        record.failures = record.failures.saturating_add(1);
        record.until = now + pause;
    }

    /// Records a successful attempt.
    pub(crate) fn succeeded(&self, peer: Peer) {
        self.peers.borrow_mut().remove(&peer);
    }
}

#[cfg(test)]
#[path = "failures_tests.rs"]
mod tests;
