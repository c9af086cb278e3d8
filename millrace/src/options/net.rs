//! `--net`: the guest's network interfaces and their peers.

use std::path::PathBuf;

use virtio_net::{Link, Mac};

use super::pairs;

/// One `--net`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Net {
    pub peer: Peer,
    pub mac: Mac,
}

/// The peer at the other end of the cable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Peer {
    /// A tap interface of the host.
    Tap(String),
    /// A network stack in user space, at its listening socket.
    Passt(PathBuf),
}

impl Net {
    /// Connects the cable.
    pub(crate) fn connect(&self) -> Result<Link, String> {
        let (what, name, link) = match &self.peer {
            Peer::Tap(name) => ("tap", name.clone(), Link::tap(name)),
            Peer::Passt(path) => ("passt", path.display().to_string(), Link::passt(path)),
        };
        link.map_err(|e| format!("--net {what}={name}: {e}"))
    }
}

/// Parses `tap=NAME` or `passt=SOCKET`, with an optional `mac=ADDRESS`. By default the address is derived
/// from the name.
pub(super) fn parse(text: &str) -> Result<Net, String> {
    let (mut peer, mut mac) = (None, None);
    for (key, value) in pairs(text)? {
        match key.as_str() {
            "tap" | "passt" if value.is_empty() => return Err(format!("{key}=: a name is missing")),
            "tap" | "passt" if peer.is_some() => return Err("give only one tap= or passt=".into()),
            "tap" => peer = Some((Mac::of_name(&value), Peer::Tap(value))),
            "passt" => peer = Some((Mac::of_name(&value), Peer::Passt(value.into()))),
            "mac" => mac = Some(value.parse()?),
            _ => return Err(format!("unknown --net key '{key}'")),
        }
    }
    let (own, peer) = peer.ok_or("tap=NAME or passt=SOCKET is missing")?;
    Ok(Net { peer, mac: mac.unwrap_or(own) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces() {
        let tap = parse("tap=tap0,mac=52:54:00:0a:0b:0c").unwrap();
        assert_eq!(tap, Net { peer: Peer::Tap("tap0".into()), mac: "52:54:00:0a:0b:0c".parse().unwrap() });
        let passt = parse("passt=/run/a,,b").unwrap();
        assert_eq!(passt.peer, Peer::Passt("/run/a,b".into()));
        assert_eq!(passt.mac, parse("passt=/run/a,,b").unwrap().mac);
        assert_ne!(passt.mac, parse("tap=tap0").unwrap().mac);
        for (wrong, tells) in [
            ("tap", "KEY=VALUE"),
            ("tap=", "name is missing"),
            ("mac=52:54:00:0a:0b:0c", "tap=NAME or passt=SOCKET"),
            ("tap=a,passt=b", "one tap= or passt="),
            ("tap=a,mac=01:00:5e:00:00:01", "01:00:5e:00:00:01"),
            ("tap=a,model=e1000", "model"),
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(error.contains(tells), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_cable_without_an_end_is_told() {
        let error = parse("passt=/nowhere/passt").unwrap().connect().err().unwrap();
        assert!(error.starts_with("--net passt=/nowhere/passt: "), "{error}");
    }
}
