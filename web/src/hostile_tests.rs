//! Seeded mutations of everything that this crate parses itself: nothing panics, and nothing that was not
//! granted is granted.

use axum::http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use tokio::io::BufReader;

use crate::access::Access;
use crate::options::Control;
use crate::pipes::{self, Peer};
use crate::{monitor, permit};

/// A seeded stream of numbers (xorshift).
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }

    /// Changes, removes, repeats or inserts some bytes.
    fn mutate(&mut self, sound: &[u8]) -> Vec<u8> {
        let mut bytes = sound.to_vec();
        for _ in 0..1 + self.below(4) {
            let (at, byte) = (self.below(bytes.len()), self.below(256) as u8);
            match self.below(5) {
                0 if !bytes.is_empty() => bytes[at] = byte,
                1 if !bytes.is_empty() => drop(bytes.remove(at)),
                2 => bytes.insert(at, byte),
                3 => bytes.truncate(at),
                _ => {
                    let part = bytes[at..].to_vec();
                    bytes.extend(part);
                }
            }
        }
        bytes
    }
}

#[test]
fn mutated_headers_let_nobody_in() {
    let mut seeded = Seeded(0x5eed);
    let access = Access::new(Some("127.0.0.1:8006".parse().unwrap()), "c2VjcmV0c2VjcmV0c2VjcmV0".to_owned());
    let (host, offers) = (b"127.0.0.1:8006", b"millrace.v1, t.c2VjcmV0c2VjcmV0c2VjcmV0");
    for _ in 0..20_000 {
        let mut headers = HeaderMap::new();
        let text = seeded.mutate(host);
        if let Ok(value) = HeaderValue::from_bytes(&text) {
            headers.insert("host", value);
        }
        let own = text.eq_ignore_ascii_case(host) || text.eq_ignore_ascii_case(b"localhost:8006");
        assert_eq!(access.host(&headers).is_ok(), own, "{}", text.escape_ascii());
        let text = seeded.mutate(offers);
        if let Ok(value) = HeaderValue::from_bytes(&text) {
            headers.insert("sec-websocket-protocol", value);
        }
        if access.token_of(&headers).is_ok() {
            let text = String::from_utf8(text).unwrap();
            let offered = text.split(',').map(str::trim).find_map(|offer| offer.strip_prefix("t."));
            assert_eq!(offered, Some(access.token()), "{text}");
        }
    }
}

#[test]
fn mutated_commands_are_allowed_only_by_their_names() {
    let mut seeded = Seeded(0xc0de);
    for _ in 0..20_000 {
        let text = String::from_utf8_lossy(&seeded.mutate(b"job-pause")).into_owned();
        // Other names of the list are further away than four changes.
        let known = ["job-pause"].contains(&text.as_str());
        assert_eq!(permit::allows(Some(Control::Jobs), &text), known, "{text}");
        assert!(!permit::allows(None, &text), "{text}");
    }
}

#[tokio::test]
async fn a_mutated_machine_breaks_nothing() {
    let mut seeded = Seeded(0xfeed);
    let lines =
        json!([{"label": "serial0", "filename": "unix:/run/console,server=on", "frontend-open": true}]);
    let screen = json!({"enabled": true, "family": "ipv4", "host": "127.0.0.1", "service": "5900"});
    for _ in 0..5_000 {
        for (reply, pipe) in [(&lines, "serial0"), (&screen, pipes::SCREEN)] {
            let text = seeded.mutate(format!("{reply}\r\n").as_bytes());
            let mut reader = BufReader::new(&text[..]);
            while let Ok(Some(message)) = monitor::next(&mut reader).await {
                if let Some(Peer::Tcp(address)) = pipes::peer(&message, pipe) {
                    assert!(address.ip().is_loopback(), "{message}");
                }
            }
            let _: Result<Value, _> = serde_json::from_slice(&text);
        }
    }
}
