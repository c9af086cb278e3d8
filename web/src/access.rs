//! Who may use the page.
//!
//! A browser runs pages of other people on the same machine. They can send requests to any local port, and a
//! name of theirs can be made to point to 127.0.0.1 (DNS rebinding). So:
//!
//! - `Host` must be a name that nobody's DNS can move: the address itself, or `localhost`.
//! - A WebSocket's `Origin` must be a page of this server.
//! - Everything that shows or changes a machine needs the token, which is in the fragment of the page's URL:
//!   a browser sends that to nobody. The page hands it over as a subprotocol of its WebSocket, because
//!   JavaScript can give a WebSocket no other header. There is no cookie that a browser would send by itself.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

/// The subprotocol that this server and its page speak.
pub const PROTOCOL: &str = "millrace.v1";

/// The length of a token of ours, and the shortest that is taken from a file.
const SHORTEST: usize = 22;
/// The most bytes that are read of a token's file.
const LONGEST: u64 = 256;

/// See the module.
pub struct Access {
    /// The allowed values of `Host`.
    hosts: Vec<String>,
    token: String,
}

/// Returns 128 random bits, as text that may be part of a URL and of a subprotocol.
pub fn random() -> io::Result<String> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

/// Returns the token in a file. Makes the file, with a new token, if there is none.
///
/// # Errors
/// If others may read the file, if it holds no token, and those of files.
pub fn token_in(path: &Path) -> io::Result<String> {
    let made = File::options().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(mut file) => {
            let token = random()?;
            file.write_all(format!("{token}\n").as_bytes())?;
            Ok(token)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let file = File::open(path)?;
            if file.metadata()?.permissions().mode() & 0o077 != 0 {
                return Err(io::Error::other("others may use this file: run 'chmod 600' on it"));
            }
            let mut text = String::new();
            file.take(LONGEST).read_to_string(&mut text)?;
            let token = text.trim();
            let is_token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            if token.len() >= SHORTEST && token.bytes().all(is_token) {
                Ok(token.to_owned())
            } else {
                Err(io::Error::other("this file holds no token: remove it, and it is made anew"))
            }
        }
        Err(e) => Err(e),
    }
}

/// Compares two secrets in a time that depends on their lengths only.
pub fn same(one: &str, other: &str) -> bool {
    let differences = one.bytes().zip(other.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    one.len() == other.len() && std::hint::black_box(differences) == 0
}

impl Access {
    /// Creates the rules for a server at `address`, or at a Unix socket.
    pub fn new(address: Option<SocketAddr>, token: String) -> Self {
        let hosts = match address {
            // Something in front of a Unix socket decides on names; the token counts.
            None => vec!["localhost".to_owned()],
            Some(address) => {
                let port = address.port();
                let mut hosts = vec![address.to_string(), format!("localhost:{port}")];
                if port == 80 {
                    hosts.extend([address.ip().to_string(), "localhost".to_owned()]);
                }
                hosts
            }
        };
        Access { hosts, token }
    }

    /// Returns the token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Checks `Host`, of any request.
    ///
    /// # Errors
    /// The status of the answer: 421, misdirected request.
    pub fn host(&self, headers: &HeaderMap) -> Result<(), StatusCode> {
        let host = header(headers, &HOST).ok_or(StatusCode::MISDIRECTED_REQUEST)?;
        let known = self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host));
        if known { Ok(()) } else { Err(StatusCode::MISDIRECTED_REQUEST) }
    }

    /// Checks that a WebSocket is opened by a page of this server.
    ///
    /// # Errors
    /// The status of the answer: 403, forbidden.
    pub fn origin(&self, headers: &HeaderMap) -> Result<(), StatusCode> {
        let host = header(headers, &HOST).unwrap_or_default();
        let own =
            |origin: &str| origin.strip_prefix("http://").is_some_and(|own| own.eq_ignore_ascii_case(host));
        let site = headers.get("sec-fetch-site").is_none_or(|site| site == "same-origin" || site == "none");
        let origin = header(headers, &ORIGIN).is_some_and(own);
        if origin && site { Ok(()) } else { Err(StatusCode::FORBIDDEN) }
    }

    /// Returns the secret that a WebSocket offers as a subprotocol which begins with `prefix`.
    ///
    /// # Errors
    /// The status of the answer if there is none: 401, unauthorized.
    pub fn secret<'a>(&self, headers: &'a HeaderMap, prefix: &str) -> Result<&'a str, StatusCode> {
        let offers = headers.get_all("sec-websocket-protocol").iter().filter_map(|value| value.to_str().ok());
        let mut offers = offers.flat_map(|value| value.split(',')).map(str::trim);
        offers.find_map(|offer| offer.strip_prefix(prefix)).ok_or(StatusCode::UNAUTHORIZED)
    }

    /// Checks the token of a WebSocket.
    ///
    /// # Errors
    /// The status of the answer: 401, unauthorized.
    pub fn token_of(&self, headers: &HeaderMap) -> Result<(), StatusCode> {
        let offered = self.secret(headers, "t.")?;
        if same(offered, &self.token) { Ok(()) } else { Err(StatusCode::UNAUTHORIZED) }
    }
}

/// Returns a header that occurs once.
fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?.to_str().ok()?;
    if all.next().is_some() { None } else { Some(first) }
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
