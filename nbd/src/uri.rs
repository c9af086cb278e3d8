//! NBD URIs (`doc/uri.md` of the NetworkBlockDevice project): a server's address and the name of an export.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::Connection;
use crate::proto::MAX_STRING;

/// The port that IANA has given to NBD.
const PORT: u16 = 10809;
const TCP: &str = "nbd://";
const UNIX: &str = "nbd+unix://";

/// The address that a server listens on.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Address {
    /// A host's name or number, without brackets, and a port.
    Tcp(String, u16),
    /// A Unix socket's path.
    Unix(PathBuf),
}

/// `nbd://HOST[:PORT]/EXPORT` or `nbd+unix:///EXPORT?socket=PATH`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uri {
    /// The server.
    pub address: Address,
    /// The name of the export; may be empty.
    pub export: String,
    /// The query's parameters except `socket`, in order.
    pub parameters: Vec<(String, String)>,
}

/// The reason why a URI is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("invalid NBD URI: {0}; use nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH")]
pub struct UriError(&'static str);

impl Uri {
    /// Returns true if a name is the URI of an NBD server rather than the name of a file.
    pub fn is_one(name: &str) -> bool {
        name.starts_with(TCP) || name.starts_with(UNIX)
    }

    /// Parses a URI.
    ///
    /// # Errors
    /// [`UriError`], also if the export's name is longer than the protocol allows.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        let unix = text.strip_prefix(UNIX);
        let rest = unix.or_else(|| text.strip_prefix(TCP)).ok_or(UriError("unknown scheme"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, export) = rest.split_once('/').unwrap_or((rest, ""));
        let export = decoded(export)?;
        if export.len() > MAX_STRING {
            return Err(UriError("the export's name is too long"));
        }
        let mut socket = None;
        let mut parameters = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match (decoded(key)?, decoded(value)?) {
                (key, value) if key == "socket" => socket = Some(PathBuf::from(value)),
                pair => parameters.push(pair),
            }
        }
        let address = match (unix, socket) {
            (Some(_), Some(path)) if authority.is_empty() && !path.as_os_str().is_empty() => {
                Address::Unix(path)
            }
            (Some(_), Some(_)) => return Err(UriError("a Unix socket has no host")),
            (Some(_), None) => return Err(UriError("socket=PATH is missing")),
            (None, Some(_)) => return Err(UriError("socket=PATH works only with nbd+unix")),
            (None, None) => tcp(authority)?,
        };
        Ok(Uri { address, export, parameters })
    }
}

/// The characters that stand for themselves in no part of a URI.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

impl fmt::Display for Uri {
    /// Writes the text that [`Uri::parse`] reads back, if the socket's path is UTF-8.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encode = |text| utf8_percent_encode(text, ENCODED);
        let mut pairs = Vec::new();
        match &self.address {
            Address::Tcp(host, port) if host.contains(':') => write!(f, "{TCP}[{host}]:{port}")?,
            Address::Tcp(host, port) => write!(f, "{TCP}{}:{port}", encode(host))?,
            Address::Unix(path) => {
                f.write_str(UNIX)?;
                pairs.push(("socket", path.to_string_lossy().into_owned()));
            }
        }
        write!(f, "/{}", encode(&self.export))?;
        pairs.extend(self.parameters.iter().map(|(key, value)| (key.as_str(), value.clone())));
        for (n, (key, value)) in pairs.iter().enumerate() {
            write!(f, "{}{}={}", if n == 0 { '?' } else { '&' }, encode(key), encode(value))?;
        }
        Ok(())
    }
}

fn tcp(authority: &str) -> Result<Address, UriError> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or(UriError("a bracket is missing"))?;
            (host, rest.strip_prefix(':').or(rest.is_empty().then_some("")))
        }
        None => {
            let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
            (host, Some(port))
        }
    };
    let port = match port.ok_or(UriError("the text after the host is not a port"))? {
        "" => PORT,
        port => port.parse().map_err(|_| UriError("the port is not a number below 65536"))?,
    };
    let host = if host.is_empty() { "localhost".into() } else { decoded(host)? };
    Ok(Address::Tcp(host, port))
}

fn decoded(text: &str) -> Result<String, UriError> {
    let bytes = percent_encoding::percent_decode_str(text).decode_utf8();
    bytes.map(Into::into).map_err(|_| UriError("not UTF-8"))
}

impl Address {
    /// Connects. Blocks, for `patience` at most and for as long as the host takes to look a name up:
    /// must not be called on an executor's thread.
    ///
    /// # Errors
    /// The host's error for the last address that was tried.
    pub fn connect(&self, patience: Duration) -> io::Result<Connection> {
        let deadline = Instant::now() + patience;
        let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let connect = |domain, address: &SockAddr| {
            let socket = Socket::new(domain, Type::STREAM, None)?;
            socket.connect_timeout(address, left())?;
            Connection::new(socket)
        };
        match self {
            Address::Unix(path) => connect(Domain::UNIX, &SockAddr::unix(path)?),
            Address::Tcp(host, port) => {
                let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
                for address in (host.as_str(), *port).to_socket_addrs()? {
                    result = connect(Domain::for_address(address), &SocketAddr::into(address));
                    if result.is_ok() {
                        break;
                    }
                }
                result
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for text in
            ["nbd://host:1/a%20b", "nbd://[::1]:10809/", "nbd+unix:///x/%C3%A4?socket=/s%3F%20%26a&timeout=3"]
        {
            let uri = Uri::parse(text).unwrap();
            assert_eq!(uri.to_string(), text);
            assert_eq!(Uri::parse(&uri.to_string()).unwrap(), uri);
        }
    }

    #[test]
    fn good_ones_are_taken_apart() {
        let tcp = |host: &str, port| Address::Tcp(host.into(), port);
        let unix = |path: &str| Address::Unix(path.into());
        for (text, address, export) in [
            ("nbd://host:10810/base", tcp("host", 10810), "base"),
            ("nbd://host", tcp("host", PORT), ""),
            ("nbd://host/", tcp("host", PORT), ""),
            ("nbd:///x", tcp("localhost", PORT), "x"),
            ("nbd://[::1]:1/a/b%20c", tcp("::1", 1), "a/b c"),
            ("nbd://[::1]/", tcp("::1", PORT), ""),
            ("nbd+unix:///x?socket=/run/a%3fb", unix("/run/a?b"), "x"),
            ("nbd+unix://?socket=s", unix("s"), ""),
        ] {
            assert_eq!(
                Uri::parse(text),
                Ok(Uri { address, export: export.into(), parameters: vec![] }),
                "{text}"
            );
            assert!(Uri::is_one(text));
        }
        let uri = Uri::parse("nbd+unix:///x?timeout=3&socket=/s&b").unwrap();
        assert_eq!(uri.parameters, [("timeout".into(), "3".into()), ("b".into(), String::new())]);
    }

    #[test]
    fn bad_ones_are_refused() {
        let long = format!("nbd://host/{}", "x".repeat(MAX_STRING + 1));
        for text in [
            "/a/file",
            "nbd:host:1",
            "nbd://host:70000/",
            "nbd://host:x/",
            "nbd://[::1/",
            "nbd://[::1]x/",
            "nbd://host/?socket=/s",
            "nbd+unix:///x",
            "nbd+unix:///x?socket=",
            "nbd+unix://host/x?socket=/s",
            "nbd://host/%ff",
            &long,
        ] {
            assert!(Uri::parse(text).is_err(), "{text}");
        }
    }
}
