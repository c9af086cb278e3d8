//! Storage without content, named `null://SIZE`: it reads as zeros and drops what is written to it, without
//! any I/O. For measurements of all that is above the storage, and as a target whose data nobody wants.
//!
//! SIZE is a number of bytes, or one with K, M, G or T. Every opening is an object of its own, so any number
//! of disks may use one name at once. An image must not record such a name as its backing file: what the
//! image keeps only there would be gone, and no other program could open it.

use std::rc::Rc;

use async_trait::async_trait;

use super::protocol::Protocol;
use super::{Extent, HostOpener, Identity, Source, Storage};
use crate::{Buf, Error, ErrorKind, Result};

const PREFIX: &str = "null://";

/// The protocol `null`.
pub(super) struct Null;

#[async_trait(?Send)]
impl Protocol for Null {
    fn schemes(&self) -> &'static [&'static str] {
        &["null"]
    }

    async fn open(&self, _opener: &HostOpener, name: &str, _writable: bool) -> Result<Rc<dyn Storage>> {
        Ok(Rc::new(NullStorage { len: size(name)?, name: name.to_owned() }))
    }

    fn outside(&self, uri: &str) -> Result<Option<Identity>> {
        size(uri).map(|_| None)
    }

    fn can_be_recorded(&self) -> bool {
        false
    }
}

/// Returns the size that a name gives, in bytes.
fn size(name: &str) -> Result<u64> {
    let parsed = || {
        let text = name.strip_prefix(PREFIX)?;
        let (digits, shift) = match "KMGT".find(text.chars().next_back()?.to_ascii_uppercase()) {
            Some(unit) => (&text[..text.len() - 1], 10 * (unit as u32 + 1)),
            None => (text, 0),
        };
        let number = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        let bytes = number.parse::<u64>().ok()?.checked_mul(1 << shift)?;
        // Sizes of disks are counted in sectors, up to the largest offset of a file.
        bytes.checked_next_multiple_of(512).filter(|bytes| *bytes <= i64::MAX as u64)
    };
    parsed().ok_or_else(|| {
        let text =
            format!("{name}: give null://SIZE, with a number of bytes below 8 EiB, or one with K, M, G or T");
        Error::new(ErrorKind::Invalid, text)
    })
}

/// An open name.
struct NullStorage {
    name: String,
    len: u64,
}

impl NullStorage {
    /// Fails if a range ends behind the end.
    fn check(&self, end: u64) -> Result<()> {
        if end <= self.len {
            return Ok(());
        }
        let text = format!("{}: has {} bytes, and {end} are needed", self.name, self.len);
        Err(Error::new(ErrorKind::NoSpace, text))
    }
}

#[async_trait(?Send)]
impl Source for NullStorage {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    async fn read(&self, _offset: u64, buf: Buf) -> Result<()> {
        buf.zero();
        Ok(())
    }

    async fn map(&self, _offset: u64, len: u64) -> Result<Extent> {
        Ok(Extent { len, data: false })
    }

    fn is_fixed(&self) -> bool {
        true
    }

    fn space(&self) -> Option<u64> {
        Some(0)
    }
}

#[async_trait(?Send)]
impl Storage for NullStorage {
    async fn write(&self, offset: u64, buf: Buf) -> Result<()> {
        self.check(offset + buf.len() as u64)
    }

    async fn truncate(&self, len: u64) -> Result<()> {
        self.check(len)
    }

    async fn punch(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    async fn unmap(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "null_tests.rs"]
mod tests;
