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
/// The most peers, and the most sites, that are remembered. Then the one whose pause ends first is forgotten.
const MAX_PEERS: usize = 1024;
/// The number of failures of a site after which its pauses begin. Its peers may be many users.
const FREE_OF_SITE: u32 = 16;
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

    /// Returns the site of a network of IPv6: the first 48 bits. That much is given to one customer, who has
    /// 65,536 networks in it (RFC 6177, section 2).
    fn site(self) -> Option<Site> {
        match self {
            Peer::V6([a, b, c, d, e, f, ..]) => Some([a, b, c, d, e, f]),
            Peer::Local | Peer::V4(_) => None,
        }
    }
}

type Site = [u8; 6];

struct Record {
    failures: u32,
    /// The time from which on the next attempt is judged.
    until: Duration,
}

/// The failures of each of at most [`MAX_PEERS`].
struct Records<K> {
    records: BTreeMap<K, Record>,
    /// The number of failures after which the pauses begin.
    free: u32,
}

impl<K: Ord + Copy> Records<K> {
    fn new(free: u32) -> RefCell<Self> {
        RefCell::new(Records { records: BTreeMap::new(), free })
    }

    fn until(&self, key: K) -> Option<Duration> {
        self.records.get(&key).map(|record| record.until)
    }

    fn failed(&mut self, key: K, now: Duration) {
        let records = &mut self.records;
        records.retain(|_, record| now < record.until + FORGET);
        if records.len() == MAX_PEERS && !records.contains_key(&key) {
            let first = records.iter().min_by_key(|(_, record)| record.until).map(|(key, _)| *key);
            first.map(|first| records.remove(&first));
        }
        let record = records.entry(key).or_insert(Record { failures: 0, until: now });
        let pause = match record.failures.checked_sub(self.free) {
            Some(doubled) => FIRST.saturating_mul(1 << doubled.min(16)).min(LONGEST),
            None => Duration::ZERO,
        };
        record.failures = record.failures.saturating_add(1);
        record.until = now + pause;
    }
}

/// The failures of all peers and of their sites, by the executor's clock.
pub(crate) struct Failures {
    peers: RefCell<Records<Peer>>,
    sites: RefCell<Records<Site>>,
    /// The numbers of attempts that wait. A peer without one has no entry.
    waiting: RefCell<BTreeMap<Peer, usize>>,
}

impl Default for Failures {
    fn default() -> Self {
        Failures { peers: Records::new(0), sites: Records::new(FREE_OF_SITE), waiting: RefCell::default() }
    }
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
    /// Returns the time at which an attempt of that peer may be judged, if it is not now: when the pauses of
    /// the peer and of its site are over.
    pub(crate) fn pause(&self, peer: Peer, now: Duration) -> Option<Duration> {
        let of_site = peer.site().and_then(|site| self.sites.borrow().until(site));
        self.peers.borrow().until(peer).max(of_site).filter(|until| *until > now)
    }

    /// Returns a place for an attempt that must wait, or nothing if [`MAX_WAITING`] of that peer wait
    /// already.
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
        self.peers.borrow_mut().failed(peer, now);
        if let Some(site) = peer.site() {
            self.sites.borrow_mut().failed(site, now);
        }
    }

    /// Records a successful attempt. Its site is not forgotten: others in it may be guessing.
    pub(crate) fn succeeded(&self, peer: Peer) {
        self.peers.borrow_mut().records.remove(&peer);
    }
}

#[cfg(test)]
#[path = "failures_tests.rs"]
mod tests;
