//! The meaning of an image's name, decided once for every place that takes one: drives, monitor commands, new
//! images, and the backing names that images record.
//!
//! | a name | means |
//! |---|---|
//! | `nbd://...`, `nbd+unix://...`, `null://...` | an object of that protocol ([`PROTOCOLS`]) |
//! | `file:PATH` | the file PATH, whatever PATH begins with |
//! | `WORD:...`, with the colon before the first `/` | an error: QEMU takes WORD for a protocol |
//! | anything else | the file of that path |
//!
//! A name must not be empty or contain control characters: they would break the lines and lists that the
//! name is printed in, and an image that records such a backing name by mistake (with a line feed at its
//! end, say) could not be opened again.

use super::protocol::Protocol;
use super::{Identity, file, nbd, null};
use crate::{Error, ErrorKind, Result};

/// The protocol of names without another one.
static FILE: &dyn Protocol = &file::Files;

/// All protocols.
static PROTOCOLS: &[&dyn Protocol] = &[FILE, &nbd::Nbd, &null::Null];

/// Returns the protocol of a URI, `SCHEME://...`; `None` for the name of a file, and for an unknown scheme.
fn of_uri(name: &str) -> Option<&'static dyn Protocol> {
    let (scheme, _) = name.split_once("://")?;
    let others = PROTOCOLS.iter().copied().filter(|protocol| *protocol != FILE);
    others.into_iter().find(|protocol| protocol.schemes().contains(&scheme))
}

/// Returns true if a name is a URI of a known protocol. Such names are absolute wherever they are recorded.
pub fn is_uri(name: &str) -> bool {
    of_uri(name).is_some()
}

/// Returns the identity of what a name reaches outside of this program and its files, without connecting: its
/// server's address and its name there. `None` for the name of a file, and for `null:`.
///
/// # Errors
/// `Invalid` if it is a malformed URI.
pub fn outside(name: &str) -> Result<Option<Identity>> {
    of_uri(name).map_or(Ok(None), |protocol| protocol.outside(name))
}

/// An image's name, parsed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Name<'a> {
    /// The path of a file or a block device.
    File(&'a str),
    /// The URI of another protocol.
    Uri(&'static dyn Protocol, &'a str),
}

impl<'a> Name<'a> {
    /// Parses a name.
    ///
    /// # Errors
    /// `Invalid` if it is empty or contains control characters; `Unsupported` if it names a protocol
    /// that is not supported.
    pub(crate) fn parse(name: &'a str) -> Result<Self> {
        if name.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "an image name must not be empty"));
        }
        if name.contains(char::is_control) {
            let text = format!("'{}': image names must not contain control characters", name.escape_debug());
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        if let Some(protocol) = of_uri(name) {
            return Ok(Name::Uri(protocol, name));
        }
        match scheme(name) {
            None => Ok(Name::File(name)),
            Some("file") => match &name["file:".len()..] {
                "" => Err(Error::new(ErrorKind::Invalid, format!("'{name}': the path is missing"))),
                path => Ok(Name::File(path)),
            },
            // 'json:' and other protocols would also let an image's author reach arbitrary objects.
            Some(scheme) => {
                let text = format!(
                    "'{name}': the protocol '{scheme}' is not supported ('./{name}' is a file of that name)"
                );
                Err(Error::new(ErrorKind::Unsupported, text))
            }
        }
    }

    /// Returns the protocol that opens it.
    pub(super) fn protocol(&self) -> &'static dyn Protocol {
        match self {
            Name::File(_) => FILE,
            Name::Uri(protocol, _) => *protocol,
        }
    }

    /// Returns the path of a file, or the whole of a URI.
    pub(super) fn rest(&self) -> &'a str {
        match self {
            Name::File(rest) | Name::Uri(_, rest) => rest,
        }
    }
}

/// Returns a name that means the file `path`, also if `path` looks like something else.
pub fn of_file(path: &str) -> String {
    match scheme(path) {
        Some(_) => format!("./{path}"),
        None => path.to_owned(),
    }
}

/// Returns the word before the colon that a name begins with. A colon after the first `/` belongs to a
/// file's name.
fn scheme(name: &str) -> Option<&str> {
    let (scheme, _) = name.split_once(':')?;
    if scheme.contains('/') { None } else { Some(scheme) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_file_an_export_or_refused() {
        for (name, path) in [
            ("disk.img", "disk.img"),
            ("/a b/disk:1.img", "/a b/disk:1.img"),
            ("./ssh:disk", "./ssh:disk"),
            ("file:disk.img", "disk.img"),
            ("file:ssh://host/disk", "ssh://host/disk"),
            ("file:///disk", "///disk"),
        ] {
            assert_eq!(Name::parse(name).unwrap(), Name::File(path), "{name}");
        }
        for uri in ["nbd://host/x", "nbd+unix:///x?socket=/s", "null://1G"] {
            let name = Name::parse(uri).unwrap();
            assert_eq!((name.rest(), matches!(name, Name::Uri(..))), (uri, true));
        }
        for name in [
            "ssh:disk",
            "ssh://host/disk",
            "nbd:host:10809",
            "json:{}",
            "fat:dir",
            "null:1G",
            "null-co://",
            "a:b",
            ":x",
            "host_device:/dev/x",
        ] {
            assert_eq!(Name::parse(name).unwrap_err().kind(), ErrorKind::Unsupported, "{name}");
        }
        for name in ["", "file:", "disk.img\n", "a\0b", "\u{1b}[2J", "nbd://host/x\r", "file:a\u{85}"] {
            let error = Name::parse(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{name:?}");
            assert!(!error.to_string().contains(char::is_control), "{error}");
        }
    }

    #[test]
    fn a_file_has_a_name_whatever_its_path_looks_like() {
        for path in ["disk", "a:b", "nbd://host/x", "null://1", "file:x", "/a:b"] {
            let name = of_file(path);
            let Name::File(found) = Name::parse(&name).unwrap() else { panic!("{name} is a URI") };
            assert_eq!(found.trim_start_matches("./"), path);
        }
    }
}
