//! The client's half of the handshake (section "Fixed newstyle negotiation").

use link::{Carried, Connection, Link};

use super::printable;
use crate::disconnect::Disconnect;
use crate::proto::{self, Fields, MAX_STRING, can, info, option, rep};

/// The longest answer to an option that is accepted, in bytes.
const MAX_ANSWER: u32 = 64 << 10;
/// The most answers to one option.
const MAX_ANSWERS: usize = 64;
/// The most data in one request, in bytes, if the server does not report its limit (section "Size
/// constraints").
const DEFAULT_PAYLOAD: u32 = 32 << 20;
/// The largest minimum block size accepted, in bytes.
const MAX_MINIMUM: u32 = 64 << 10;

/// The reason why a negotiation failed.
#[derive(Debug, thiserror::Error)]
pub enum NegotiateError {
    /// The connection cannot be used any more.
    #[error(transparent)]
    Disconnect(#[from] Disconnect),
    /// The server refused, with its text.
    #[error("the server answers: {0}")]
    Refused(String),
    /// The server does not have that export, or not for us.
    #[error("the server has no export '{0}'")]
    NoExport(String),
}

impl From<std::io::Error> for NegotiateError {
    fn from(e: std::io::Error) -> Self {
        NegotiateError::Disconnect(e.into())
    }
}

/// The properties of an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// Size in bytes.
    pub size: u64,
    pub(crate) flags: u16,
    /// The unit of offsets and lengths in bytes: a power of two.
    pub min_block: u32,
    /// The most data in one request, in bytes: a multiple of `min_block`.
    pub max_payload: u32,
    pub(crate) structured: bool,
    /// The id of `base:allocation`.
    pub(crate) allocation: Option<u32>,
}

impl Terms {
    /// Returns true if writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.flags & can::READ_ONLY != 0
    }

    /// Returns true if the server takes flushes.
    pub fn can_flush(&self) -> bool {
        self.flags & can::FLUSH != 0
    }

    /// Returns true if zeros can be written without sending them.
    pub fn can_write_zeroes(&self) -> bool {
        self.flags & can::WRITE_ZEROES != 0
    }

    /// Returns true if the server takes hints that a range is not needed any more.
    pub fn can_trim(&self) -> bool {
        self.flags & can::TRIM != 0
    }

    /// Returns true if the server reports its holes.
    pub fn has_status(&self) -> bool {
        self.allocation.is_some()
    }
}

/// A transmission that can begin.
pub struct Offer {
    /// The properties of the export.
    pub terms: Terms,
    pub(crate) carried: Carried,
}

/// Asks a server for an export. The caller must limit the time.
///
/// # Errors
/// [`NegotiateError`]; the connection cannot be used then.
pub async fn negotiate(connection: &Connection, export: &str) -> Result<Offer, NegotiateError> {
    let mut server = Server { link: Link::new(connection, Carried::default())?, no_zeroes: false };
    server.greet().await?;
    let (kind, _) = server.ask(option::STRUCTURED_REPLY, &[], |_, _| Ok(())).await?;
    let structured = kind == rep::ACK;
    let mut allocation = None;
    if structured {
        let mut data = string(export);
        data.extend(1u32.to_be_bytes());
        data.extend(string(proto::CONTEXTS[0]));
        let context = |kind, data: &[u8]| {
            let mut fields = Fields(data);
            if kind == rep::META_CONTEXT
                && let Some(id) = fields.u32()
                && fields.0 == proto::CONTEXTS[0].as_bytes()
            {
                allocation = Some(id);
            }
            Ok(())
        };
        let (kind, _) = server.ask(option::SET_META_CONTEXT, &data, context).await?;
        if kind != rep::ACK {
            allocation = None;
        }
    }
    let mut terms =
        Terms { size: 0, flags: 0, min_block: 1, max_payload: DEFAULT_PAYLOAD, structured, allocation };
    server.go(export, &mut terms).await?;
    if terms.size > i64::MAX as u64 {
        return Err(Disconnect::Server("has an export larger than any file").into());
    }
    Ok(Offer { terms, carried: server.link.leave() })
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

struct Server {
    link: Link,
    no_zeroes: bool,
}

impl Server {
    async fn greet(&mut self) -> Result<(), NegotiateError> {
        let mut greeting = [0; 18];
        self.link.fill(&mut greeting).await?;
        let mut fields = Fields(&greeting);
        if fields.u64() != Some(proto::MAGIC) {
            return Err(Disconnect::Server("is not an NBD server").into());
        }
        let (Some(proto::OPTION_MAGIC), Some(flags)) = (fields.u64(), fields.u16()) else {
            return Err(Disconnect::Server("speaks the oldstyle protocol only").into());
        };
        if flags & proto::FIXED_NEWSTYLE == 0 {
            return Err(Disconnect::Server("does not speak the fixed newstyle protocol").into());
        }
        let flags = flags & (proto::FIXED_NEWSTYLE | proto::NO_ZEROES);
        self.no_zeroes = flags & proto::NO_ZEROES != 0;
        self.link.send(&u32::from(flags).to_be_bytes()).await?;
        Ok(())
    }

    async fn send(&self, kind: u32, data: &[u8]) -> Result<(), NegotiateError> {
        let mut message = proto::OPTION_MAGIC.to_be_bytes().to_vec();
        message.extend(kind.to_be_bytes());
        message.extend((data.len() as u32).to_be_bytes());
        message.extend(data);
        self.link.send(&message).await?;
        Ok(())
    }

    /// Sends an option and calls `each` with every answer but the last, which it returns: `ACK` or an error.
    async fn ask(
        &self,
        kind: u32,
        data: &[u8],
        mut each: impl FnMut(u32, &[u8]) -> Result<(), Disconnect>,
    ) -> Result<(u32, Vec<u8>), NegotiateError> {
        self.send(kind, data).await?;
        for _ in 0..MAX_ANSWERS {
            let mut head = [0; 20];
            self.link.fill(&mut head).await?;
            let mut fields = Fields(&head);
            let head = (fields.u64(), fields.u32(), fields.u32(), fields.u32());
            let (Some(proto::OPTION_REPLY_MAGIC), Some(to), Some(answer), Some(len)) = head else {
                return Err(Disconnect::Server("sent something that is not an answer").into());
            };
            if to != kind || len > MAX_ANSWER {
                return Err(Disconnect::Server("sent an answer to nothing, or one that is too long").into());
            }
            let mut data = vec![0; len as usize];
            self.link.fill(&mut data).await?;
            if answer == rep::ACK || answer & rep::IS_ERROR != 0 {
                return Ok((answer, data));
            }
            each(answer, &data)?;
        }
        Err(Disconnect::Server("sent too many answers").into())
    }

    async fn go(&self, export: &str, terms: &mut Terms) -> Result<(), NegotiateError> {
        let mut data = string(export);
        data.extend([1u16, info::BLOCK_SIZE].map(u16::to_be_bytes).concat());
        let mut told = false;
        let each = |kind, data: &[u8]| {
            let mut fields = Fields(data);
            match (kind, fields.u16()) {
                (rep::INFO, Some(info::EXPORT)) => {
                    let (Some(size), Some(flags)) = (fields.u64(), fields.u16()) else {
                        return Err(Disconnect::Server("sent no size"));
                    };
                    (terms.size, terms.flags, told) = (size, flags, true);
                }
                (rep::INFO, Some(info::BLOCK_SIZE)) => {
                    let (Some(min), Some(_), Some(max)) = (fields.u32(), fields.u32(), fields.u32()) else {
                        return Err(Disconnect::Server("sent no block sizes"));
                    };
                    if !min.is_power_of_two() || min > MAX_MINIMUM || max < min {
                        return Err(Disconnect::Server("sent block sizes that make no sense"));
                    }
                    terms.min_block = min;
                    terms.max_payload = max.min(DEFAULT_PAYLOAD) / min * min;
                }
                _ => {}
            }
            Ok(())
        };
        let (kind, data) = self.ask(option::GO, &data, each).await?;
        match kind {
            rep::ACK if told => Ok(()),
            rep::ACK => Err(Disconnect::Server("sent no size").into()),
            rep::ERR_UNSUP => self.export_name(export, terms).await,
            rep::ERR_UNKNOWN => Err(NegotiateError::NoExport(export.to_owned())),
            rep::ERR_TLS_REQD => Err(NegotiateError::Refused("TLS is required".into())),
            kind => {
                let text = printable(&data[..data.len().min(MAX_STRING)]);
                let number = kind & !rep::IS_ERROR;
                let text = if text.is_empty() { format!("error {number}") } else { text };
                Err(NegotiateError::Refused(text))
            }
        }
    }

    /// Chooses by `EXPORT_NAME`, the oldest way, for servers that know no other.
    async fn export_name(&self, export: &str, terms: &mut Terms) -> Result<(), NegotiateError> {
        self.send(option::EXPORT_NAME, export.as_bytes()).await?;
        let mut answer = [0; 10];
        if !self.link.fill_or_end(&mut answer).await? {
            return Err(NegotiateError::NoExport(export.to_owned()));
        }
        let mut fields = Fields(&answer);
        if let (Some(size), Some(flags)) = (fields.u64(), fields.u16()) {
            (terms.size, terms.flags) = (size, flags);
        }
        if !self.no_zeroes {
            self.link.fill(&mut [0; 124]).await?;
        }
        Ok(())
    }
}
