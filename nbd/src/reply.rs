//! Replies as they stand on the wire (sections "Simple reply message", "Structured reply chunk
//! message").

use std::io;

use buf::Buf;

use crate::connection::Link;
use crate::export::{Error, Extent, Result};
use crate::proto::{CONTEXTS, MAX_STRING, SIMPLE_MAGIC, STATE_HOLE, STATE_ZERO, STRUCTURED_MAGIC, chunk};

/// A part of what was read.
pub(crate) struct Part {
    /// Length in bytes, at least 1.
    pub(crate) len: u32,
    /// `false`: zeros, which are not sent.
    pub(crate) data: bool,
}

/// What a request that went well answers.
pub(crate) enum Answer {
    /// Nothing more to say.
    Done,
    /// What was read, in one piece.
    Data { offset: u64, buf: Buf },
    /// What was read from `offset` on, its zeros left out. `buf` is whole where a part is data, else
    /// empty.
    Sparse { offset: u64, buf: Buf, parts: Vec<Part> },
    /// The extents of the negotiated contexts.
    Status { contexts: [bool; 2], extents: Vec<Extent> },
}

/// Where the replies to one request go.
pub(crate) struct Replier<'a> {
    pub(crate) link: &'a Link,
    pub(crate) structured: bool,
    pub(crate) cookie: u64,
}

impl Replier<'_> {
    /// Sends a whole reply. The caller sees to it that nobody else sends meanwhile.
    pub(crate) async fn send(&self, result: Result<Answer>) -> io::Result<()> {
        match result {
            Err(e) if self.structured => self.error(&e).await,
            Err(e) => self.simple(e.errno as u32, &Buf::new(0)).await,
            // "MAY use either a simple reply or a structured reply" where nothing is to be sent but
            // success; `Done` answers a structured read of no bytes too, which may not be simple.
            Ok(Answer::Done) if self.structured => self.chunk(chunk::DONE, chunk::NONE, &[]).await,
            Ok(Answer::Done) => self.simple(0, &Buf::new(0)).await,
            Ok(Answer::Data { offset, buf }) if self.structured => {
                self.chunk_with(chunk::DONE, chunk::OFFSET_DATA, &offset.to_be_bytes(), &buf).await
            }
            Ok(Answer::Data { buf, .. }) => self.simple(0, &buf).await,
            Ok(Answer::Sparse { offset, buf, parts }) => self.sparse(offset, &buf, &parts).await,
            Ok(Answer::Status { contexts, extents }) => self.status(contexts, &extents).await,
        }
    }

    async fn simple(&self, errno: u32, data: &Buf) -> io::Result<()> {
        let mut head = SIMPLE_MAGIC.to_be_bytes().to_vec();
        head.extend(errno.to_be_bytes());
        head.extend(self.cookie.to_be_bytes());
        self.link.send(&head, data).await
    }

    async fn chunk(&self, flags: u16, kind: u16, payload: &[u8]) -> io::Result<()> {
        self.chunk_with(flags, kind, payload, &Buf::new(0)).await
    }

    async fn chunk_with(&self, flags: u16, kind: u16, payload: &[u8], data: &Buf) -> io::Result<()> {
        let mut head = STRUCTURED_MAGIC.to_be_bytes().to_vec();
        head.extend(flags.to_be_bytes());
        head.extend(kind.to_be_bytes());
        head.extend(self.cookie.to_be_bytes());
        head.extend(((payload.len() + data.len()) as u32).to_be_bytes());
        head.extend(payload);
        self.link.send(&head, data).await
    }

    async fn error(&self, error: &Error) -> io::Result<()> {
        let text = &error.text[..error.text.floor_char_boundary(MAX_STRING)];
        let mut payload = (error.errno as u32).to_be_bytes().to_vec();
        payload.extend((text.len() as u16).to_be_bytes());
        payload.extend(text.as_bytes());
        self.chunk(chunk::DONE, chunk::ERROR, &payload).await
    }

    async fn sparse(&self, offset: u64, buf: &Buf, parts: &[Part]) -> io::Result<()> {
        let mut at = 0;
        for (index, part) in parts.iter().enumerate() {
            let flags = if index + 1 == parts.len() { chunk::DONE } else { 0 };
            let place = (offset + at).to_be_bytes();
            let end = at + u64::from(part.len);
            if part.data {
                let data = buf.slice(at as usize..end as usize);
                self.chunk_with(flags, chunk::OFFSET_DATA, &place, &data).await?;
            } else {
                let hole = [&place[..], &part.len.to_be_bytes()].concat();
                self.chunk(flags, chunk::OFFSET_HOLE, &hole).await?;
            }
            at = end;
        }
        Ok(())
    }

    async fn status(&self, contexts: [bool; 2], extents: &[Extent]) -> io::Result<()> {
        let last = contexts.iter().rposition(|negotiated| *negotiated);
        for id in (0..CONTEXTS.len()).filter(|id| contexts[*id]) {
            let mut payload = (id as u32).to_be_bytes().to_vec();
            for (len, state) in merged(extents.iter().map(|extent| (extent.len, state(id, extent)))) {
                // The sum is a request's length, of 32 bits.
                payload.extend((len as u32).to_be_bytes());
                payload.extend(state.to_be_bytes());
            }
            let flags = if last == Some(id) { chunk::DONE } else { 0 };
            self.chunk(flags, chunk::BLOCK_STATUS, &payload).await?;
        }
        Ok(())
    }
}

/// What an extent is called in one of [`CONTEXTS`].
pub(crate) fn state(context: usize, extent: &Extent) -> u32 {
    match context {
        0 if extent.data => 0,
        0 => STATE_HOLE | STATE_ZERO,
        _ => extent.depth,
    }
}

/// Neighbours of one kind joined.
fn merged(runs: impl Iterator<Item = (u64, u32)>) -> Vec<(u64, u32)> {
    let mut joined: Vec<(u64, u32)> = Vec::new();
    for (len, state) in runs {
        match joined.last_mut() {
            Some(last) if last.1 == state => last.0 += len,
            _ => joined.push((len, state)),
        }
    }
    joined
}
