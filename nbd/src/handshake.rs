//! The handshake: a client learns about the exports and chooses one (section "Fixed newstyle negotiation").

use std::future::Future;

use link::{Carried, Connection, Credentials, Link};

use crate::disconnect::Disconnect;
use crate::proto::{self, CONTEXTS, Fields, can, info, option, rep};
use crate::serve::MAX_REQUEST;

/// The longest data of an option in bytes.
pub const MAX_OPTION: usize = 64 << 10;
/// The recommended size of requests, in bytes: QEMU's.
const PREFERRED_BLOCK: u32 = 4096;

/// The properties of an export that a client gets.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Info {
    /// Size in bytes, now.
    pub size: u64,
    /// True if writes are refused.
    pub read_only: bool,
    /// A sentence for people, at most 4096 bytes.
    pub description: Option<String>,
}

/// The exports that a client can choose among.
pub trait Exports {
    /// The value for an export that was found, which [`handshake`] returns to its caller.
    type Found;

    /// Returns all names, each at most 4096 bytes.
    fn names(&self) -> Vec<String>;

    /// Returns the export of that name, if there is one. Called each time that a client asks for it; the
    /// future may be dropped.
    fn find(&self, name: &str) -> impl Future<Output = Option<(Info, Self::Found)>>;
}

/// A transmission that can begin, on any thread.
pub struct Session {
    pub(crate) terms: Terms,
    pub(crate) carried: Carried,
}

/// The negotiated form of the transmission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Terms {
    pub(crate) structured: bool,
    pub(crate) read_only: bool,
    /// Flags for [`CONTEXTS`]: those that block status reports.
    pub(crate) contexts: [bool; 2],
}

/// Greets a client and serves its options until it chooses an export. Returns `None` if it leaves without
/// one. The connection continues in [`crate::serve`]. With `tls`, nothing is revealed before TLS has begun.
///
/// The caller must limit the time: a client may send nothing for ever.
///
/// # Errors
/// [`Disconnect`]: the connection cannot be used any more.
pub async fn handshake<E: Exports>(
    connection: &Connection,
    exports: &E,
    tls: Option<&Credentials>,
) -> Result<Option<(Session, E::Found)>, Disconnect> {
    let link = Link::new(connection, Carried::default())?;
    let mut greeting = [proto::MAGIC.to_be_bytes(), proto::OPTION_MAGIC.to_be_bytes()].concat();
    greeting.extend((proto::FIXED_NEWSTYLE | proto::NO_ZEROES).to_be_bytes());
    link.send(&greeting).await?;
    let mut flags = [0; 4];
    if !link.fill_or_end(&mut flags).await? {
        return Ok(None);
    }
    let flags = u32::from_be_bytes(flags);
    let known = u32::from(proto::FIXED_NEWSTYLE | proto::NO_ZEROES);
    if flags & !known != 0 {
        return Err(Disconnect::Protocol("sent unknown flags"));
    }
    let mut client = Client {
        link,
        tls,
        fixed: flags & u32::from(proto::FIXED_NEWSTYLE) != 0,
        no_zeroes: flags & u32::from(proto::NO_ZEROES) != 0,
        structured: false,
        contexts: None,
    };
    let chosen = client.options(exports).await?;
    Ok(chosen.map(|(terms, found)| (Session { terms, carried: client.link.leave() }, found)))
}

/// The contexts of the last `SET_META_CONTEXT`, and the export that it named.
type Chosen = Option<(String, [bool; 2])>;

struct Client<'a> {
    link: Link,
    tls: Option<&'a Credentials>,
    fixed: bool,
    no_zeroes: bool,
    structured: bool,
    contexts: Chosen,
}

/// Answers to one option: type and data of each.
type Answers = Vec<(u32, Vec<u8>)>;

fn error(kind: u32, text: &str) -> Answers {
    vec![(kind, text.as_bytes().to_vec())]
}

impl Client<'_> {
    async fn options<E: Exports>(&mut self, exports: &E) -> Result<Option<(Terms, E::Found)>, Disconnect> {
        loop {
            let mut head = [0; 16];
            if !self.link.fill_or_end(&mut head).await? {
                return Ok(None);
            }
            let mut fields = Fields(&head);
            let (Some(proto::OPTION_MAGIC), Some(kind), Some(len)) =
                (fields.u64(), fields.u32(), fields.u32())
            else {
                return Err(Disconnect::Protocol("sent something that is not an option"));
            };
            if len as usize > MAX_OPTION {
                self.answer(kind, error(rep::ERR_TOO_BIG, "option too long")).await?;
                return Err(Disconnect::Protocol("sent an option that is too long"));
            }
            let mut data = vec![0; len as usize];
            self.link.fill(&mut data).await?;
            let in_the_clear = self.tls.is_some() && !self.link.is_secure();
            if kind == option::EXPORT_NAME {
                if in_the_clear {
                    return Err(Disconnect::Protocol("does not begin with TLS, which is required"));
                }
                return self.export_name(exports, &data).await.map(Some);
            }
            if !self.fixed {
                return Err(Disconnect::Protocol("sent an option without fixed newstyle negotiation"));
            }
            let answers = match kind {
                option::ABORT => {
                    // The client need not wait for this answer.
                    let _ = self.answer(kind, vec![(rep::ACK, Vec::new())]).await;
                    return Ok(None);
                }
                option::STARTTLS => {
                    self.start_tls(&data).await?;
                    continue;
                }
                _ if in_the_clear => error(rep::ERR_TLS_REQD, "TLS is required: send STARTTLS first"),
                option::LIST if data.is_empty() => list(exports),
                option::LIST => error(rep::ERR_INVALID, "LIST takes no data"),
                option::STRUCTURED_REPLY if data.is_empty() => {
                    self.structured = true;
                    vec![(rep::ACK, Vec::new())]
                }
                option::STRUCTURED_REPLY => error(rep::ERR_INVALID, "STRUCTURED_REPLY takes no data"),
                option::LIST_META_CONTEXT => self.meta_context(exports, &data, false).await,
                option::SET_META_CONTEXT => self.meta_context(exports, &data, true).await,
                option::INFO | option::GO => match self.info(exports, &data).await {
                    Ok((answers, terms, found)) => {
                        if kind == option::GO {
                            self.answer(kind, answers).await?;
                            return Ok(Some((terms, found)));
                        }
                        answers
                    }
                    Err(answers) => answers,
                },
                _ => error(rep::ERR_UNSUP, "unknown option"),
            };
            self.answer(kind, answers).await?;
        }
    }

    async fn start_tls(&mut self, data: &[u8]) -> Result<(), Disconnect> {
        let refused = match self.tls {
            None => error(rep::ERR_POLICY, "TLS is not configured"),
            Some(_) if self.link.is_secure() => error(rep::ERR_INVALID, "TLS began already"),
            Some(_) if !data.is_empty() => error(rep::ERR_INVALID, "STARTTLS takes no data"),
            Some(credentials) => {
                self.answer(option::STARTTLS, vec![(rep::ACK, Vec::new())]).await?;
                self.link.secure(credentials).await?;
                // What was negotiated in the clear does not count ("NBD_OPT_STARTTLS").
                (self.structured, self.contexts) = (false, None);
                return Ok(());
            }
        };
        self.answer(option::STARTTLS, refused).await
    }

    async fn answer(&self, option: u32, answers: Answers) -> Result<(), Disconnect> {
        for (kind, data) in answers {
            let mut message = proto::OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
            message.extend(option.to_be_bytes());
            message.extend(kind.to_be_bytes());
            message.extend((data.len() as u32).to_be_bytes());
            message.extend(data);
            self.link.send(&message).await?;
        }
        Ok(())
    }

    fn terms(&self, name: &str, info: &Info) -> Terms {
        let contexts = match &self.contexts {
            Some((of, contexts)) if of == name && self.structured => *contexts,
            _ => [false; 2],
        };
        Terms { structured: self.structured, read_only: info.read_only, contexts }
    }

    /// Serves `EXPORT_NAME`, the oldest way to choose, whose only error is hanging up.
    async fn export_name<E: Exports>(
        &self,
        exports: &E,
        data: &[u8],
    ) -> Result<(Terms, E::Found), Disconnect> {
        let name = std::str::from_utf8(data).ok().filter(|name| name.len() <= proto::MAX_STRING);
        let name = name.ok_or(Disconnect::Protocol("sent an invalid export name"))?;
        let found = exports.find(name).await;
        let (info, found) = found.ok_or(Disconnect::Protocol("asked for an export that does not exist"))?;
        let terms = self.terms(name, &info);
        let mut message = info.size.to_be_bytes().to_vec();
        message.extend(terms.transmission_flags().to_be_bytes());
        if !self.no_zeroes {
            message.extend([0; 124]);
        }
        self.link.send(&message).await?;
        Ok((terms, found))
    }

    /// Answers `INFO` and `GO`.
    async fn info<E: Exports>(
        &self,
        exports: &E,
        data: &[u8],
    ) -> Result<(Answers, Terms, E::Found), Answers> {
        let malformed = || error(rep::ERR_INVALID, "malformed request for information");
        let (name, requests) = parse_info(data).ok_or_else(malformed)?;
        let (info, found) = exports.find(name).await.ok_or_else(|| unknown(name))?;
        let terms = self.terms(name, &info);
        let item = |kind: u16, data: &[u8]| (rep::INFO, [&kind.to_be_bytes(), data].concat());
        let size = info.size.to_be_bytes();
        let mut answers =
            vec![item(info::EXPORT, &[&size[..], &terms.transmission_flags().to_be_bytes()].concat())];
        for request in requests {
            match request {
                info::NAME => answers.push(item(info::NAME, name.as_bytes())),
                info::DESCRIPTION => {
                    let text = info.description.iter().map(|text| item(info::DESCRIPTION, text.as_bytes()));
                    answers.extend(text);
                }
                info::BLOCK_SIZE => {
                    // Any byte can be read and written by itself.
                    let sizes = [1, PREFERRED_BLOCK, MAX_REQUEST].map(u32::to_be_bytes);
                    answers.push(item(info::BLOCK_SIZE, sizes.as_flattened()));
                }
                // Unknown types are left out ("NBD_OPT_INFO").
                _ => {}
            }
        }
        answers.push((rep::ACK, Vec::new()));
        Ok((answers, terms, found))
    }

    /// Answers `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
    async fn meta_context<E: Exports>(&mut self, exports: &E, data: &[u8], set: bool) -> Answers {
        if set {
            // Even if it fails ("NBD_OPT_SET_META_CONTEXT").
            self.contexts = None;
        }
        if !self.structured {
            return error(rep::ERR_INVALID, "structured replies were not negotiated");
        }
        let Some((name, queries)) = parse_queries(data) else {
            return error(rep::ERR_INVALID, "malformed queries");
        };
        if exports.find(name).await.is_none() {
            return unknown(name);
        }
        let asked = |context: &str| match set {
            true => queries.contains(&context),
            // A query that is only a namespace lists all contexts in it; without a query, all are listed.
            false => {
                let namespace = |query: &&str| query.ends_with(':') && context.starts_with(*query);
                queries.is_empty() || queries.iter().any(|query| *query == context || namespace(query))
            }
        };
        let chosen = CONTEXTS.map(asked);
        let mut answers = Answers::new();
        for (id, context) in CONTEXTS.iter().enumerate().filter(|(id, _)| chosen[*id]) {
            // The id means nothing in a list.
            let id = if set { id as u32 } else { 0 };
            answers.push((rep::META_CONTEXT, [&id.to_be_bytes(), context.as_bytes()].concat()));
        }
        answers.push((rep::ACK, Vec::new()));
        if set {
            self.contexts = Some((name.to_owned(), chosen));
        }
        answers
    }
}

fn unknown(name: &str) -> Answers {
    // The client knows the name; a long one need not be sent back.
    let text =
        if name.len() <= 256 { format!("export '{name}' not present") } else { "no such export".into() };
    error(rep::ERR_UNKNOWN, &text)
}

fn list<E: Exports>(exports: &E) -> Answers {
    let server = |name: String| (rep::SERVER, [&(name.len() as u32).to_be_bytes(), name.as_bytes()].concat());
    let mut answers: Answers = exports.names().into_iter().map(server).collect();
    answers.push((rep::ACK, Vec::new()));
    answers
}

/// Parses the name and the information types of `INFO` and `GO`.
fn parse_info(data: &[u8]) -> Option<(&str, Vec<u16>)> {
    let mut fields = Fields(data);
    let name = fields.string()?;
    let count = fields.u16()?;
    let mut requests = Vec::new();
    for _ in 0..count {
        let request = fields.u16()?;
        // A type that is requested twice is answered once: limits what a client can make us send.
        if !requests.contains(&request) && request <= info::BLOCK_SIZE {
            requests.push(request);
        }
    }
    fields.is_empty().then_some((name, requests))
}

/// Parses the name and the queries of the options on metadata contexts.
fn parse_queries(data: &[u8]) -> Option<(&str, Vec<&str>)> {
    let mut fields = Fields(data);
    let name = fields.string()?;
    let count = fields.u32()?;
    let mut queries = Vec::new();
    for _ in 0..count {
        queries.push(fields.string()?);
    }
    fields.is_empty().then_some((name, queries))
}

impl Terms {
    /// Returns the abilities of the export, for this client (section "Transmission flags"). Any number
    /// of connections see one coherent export, and a flush on one is a flush for all: `CAN_MULTI_CONN`.
    fn transmission_flags(&self) -> u16 {
        let mut flags = can::HAS_FLAGS | can::FLUSH | can::FUA | can::MULTI_CONN | can::CACHE;
        flags |= match self.read_only {
            true => can::READ_ONLY,
            false => can::TRIM | can::WRITE_ZEROES | can::FAST_ZERO,
        };
        if self.structured { flags | can::DF } else { flags }
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
