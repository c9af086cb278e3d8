//! The line protocol between a test and the agent in its guest.
//!
//! It runs over a raw serial line, one request per line: `ID VERB key=value ...`. The reply to a request
//! is any number of `ID progress TEXT` lines and then exactly one `ID ok key=value ...` or
//! `ID err TEXT`. Requests run concurrently, so replies to different requests may interleave; the id
//! tells them apart, also when a reply is late. When it starts, the agent sends `* ready version=N`.
//! Keys and values contain no white space.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

/// The version of the protocol. It is in the `ready` line and in the reply to `hello`, whose field
/// `boot` identifies the boot.
pub const VERSION: u64 = 1;

/// The `key=value` part of a request or of a reply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(BTreeMap<String, String>);

impl Fields {
    /// No fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Parses every word of `text` that contains a `=`; other words are ignored.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split_ascii_whitespace().filter_map(|word| word.split_once('='));
        Fields(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    /// Adds a field. `value` must print without white space.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Display) -> Self {
        self.0.insert(key.to_owned(), value.to_string());
        self
    }

    /// The value of `key`.
    pub fn text(&self, key: &str) -> Result<&str, String> {
        self.0.get(key).map(String::as_str).ok_or_else(|| format!("{key}= is missing"))
    }

    /// The value of `key` as a number.
    pub fn number<T: FromStr>(&self, key: &str) -> Result<T, String> {
        let text = self.text(key)?;
        text.parse().map_err(|_| format!("{key}={text} is not a number in range"))
    }

    /// The value of `key` as a number, or `default` if the key is absent.
    pub fn number_or<T: FromStr>(&self, key: &str, default: T) -> Result<T, String> {
        if self.0.contains_key(key) { self.number(key) } else { Ok(default) }
    }
}

impl Display for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (key, value)) in self.0.iter().enumerate() {
            write!(f, "{}{key}={value}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

/// A request, as the agent sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The request's number, chosen by the client and repeated in every reply.
    pub id: u64,
    /// The name of the request.
    pub verb: String,
    /// The parameters of the request.
    pub fields: Fields,
}

impl Request {
    /// Parses one line. `None` if it is not a request (noise on the line, an empty line).
    pub fn parse(line: &str) -> Option<Self> {
        let (id, rest) = line.trim().split_once(' ')?;
        let (verb, fields) = rest.split_once(' ').unwrap_or((rest, ""));
        Some(Request { id: id.parse().ok()?, verb: verb.to_owned(), fields: Fields::parse(fields) })
    }
}

/// A line from the agent, as the client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// More lines will follow for this id.
    Progress(u64, String),
    /// The request succeeded.
    Ok(u64, Fields),
    /// The request failed, with the reason.
    Err(u64, String),
    /// The agent has just started.
    Ready,
}

impl Reply {
    /// Parses one line. `None` if it is not a reply (noise on the line).
    pub fn parse(line: &str) -> Option<Self> {
        let (id, rest) = line.trim().split_once(' ')?;
        let (kind, text) = rest.split_once(' ').unwrap_or((rest, ""));
        if id == "*" {
            return (kind == "ready").then_some(Reply::Ready);
        }
        let id = id.parse().ok()?;
        match kind {
            "progress" => Some(Reply::Progress(id, text.to_owned())),
            "ok" => Some(Reply::Ok(id, Fields::parse(text))),
            "err" => Some(Reply::Err(id, text.to_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
