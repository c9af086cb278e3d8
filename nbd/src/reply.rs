//! Replies as they stand on the wire (sections "Simple reply message", "Structured reply chunk
//! message").

use buf::Buf;
use link::Message;

use crate::export::{Error, Extent, Result};
use crate::proto::{CONTEXTS, MAX_STRING, SIMPLE_MAGIC, STATE_HOLE, STATE_ZERO, STRUCTURED_MAGIC, chunk};

/// A part of the data of a read.
pub(crate) struct Part {
    /// Length in bytes, at least 1.
    pub(crate) len: u32,
    /// True for data; false for zeros, which are not sent.
    pub(crate) data: bool,
}

/// The result of a successful request.
pub(crate) enum Answer {
    /// No data.
    Done,
    /// The data of a read, in one piece.
    Data { offset: u64, buf: Buf },
    /// The data of a read at `offset`, without its zeros. `buf` has the whole length if any part is
    /// data, and is empty otherwise.
    Sparse { offset: u64, buf: Buf, parts: Vec<Part> },
    /// The extents of the negotiated contexts.
    Status { contexts: [bool; 2], extents: Vec<Extent> },
}

/// The reply to one request, as the messages of which it consists.
pub(crate) struct Reply<K> {
    cookie: u64,
    messages: Vec<Message<K>>,
}

impl<K> Reply<K> {
    /// Returns the messages of a reply; the last one holds `keep` until it is sent.
    pub(crate) fn messages(
        structured: bool,
        cookie: u64,
        result: Result<Answer>,
        keep: K,
    ) -> Vec<Message<K>> {
        let mut reply = Reply { cookie, messages: Vec::with_capacity(1) };
        match result {
            Err(e) if structured => reply.error(&e),
            Err(e) => reply.simple(e.errno as u32, None),
            // A server "MAY use either a simple reply or a structured reply" if it sends nothing but success.
            // `Done` also answers a structured read of no bytes, which must not get a simple reply.
            Ok(Answer::Done) if structured => reply.chunk(chunk::DONE, chunk::NONE, &[]),
            Ok(Answer::Done) => reply.simple(0, None),
            Ok(Answer::Data { offset, buf }) if structured => {
                reply.chunk_with(chunk::DONE, chunk::OFFSET_DATA, &offset.to_be_bytes(), Some(buf));
            }
            Ok(Answer::Data { buf, .. }) => reply.simple(0, Some(buf)),
            Ok(Answer::Sparse { offset, buf, parts }) => reply.sparse(offset, &buf, &parts),
            Ok(Answer::Status { contexts, extents }) => reply.status(contexts, &extents),
        }
        if let Some(last) = reply.messages.last_mut() {
            last.keep = Some(keep);
        }
        reply.messages
    }

    fn simple(&mut self, errno: u32, body: Option<Buf>) {
        let mut head = Vec::with_capacity(16);
        head.extend(SIMPLE_MAGIC.to_be_bytes());
        head.extend(errno.to_be_bytes());
        head.extend(self.cookie.to_be_bytes());
        self.messages.push(Message { head, body, keep: None });
    }

    fn chunk(&mut self, flags: u16, kind: u16, payload: &[u8]) {
        self.chunk_with(flags, kind, payload, None);
    }

    fn chunk_with(&mut self, flags: u16, kind: u16, payload: &[u8], body: Option<Buf>) {
        let mut head = Vec::with_capacity(20 + payload.len());
        head.extend(STRUCTURED_MAGIC.to_be_bytes());
        head.extend(flags.to_be_bytes());
        head.extend(kind.to_be_bytes());
        head.extend(self.cookie.to_be_bytes());
        head.extend(((payload.len() + body.as_ref().map_or(0, Buf::len)) as u32).to_be_bytes());
        head.extend(payload);
        self.messages.push(Message { head, body, keep: None });
    }

    fn error(&mut self, error: &Error) {
        let text = &error.text[..error.text.floor_char_boundary(MAX_STRING)];
        let mut payload = (error.errno as u32).to_be_bytes().to_vec();
        payload.extend((text.len() as u16).to_be_bytes());
        payload.extend(text.as_bytes());
        self.chunk(chunk::DONE, chunk::ERROR, &payload);
    }

    fn sparse(&mut self, offset: u64, buf: &Buf, parts: &[Part]) {
        let mut at = 0;
        for (index, part) in parts.iter().enumerate() {
            let flags = if index + 1 == parts.len() { chunk::DONE } else { 0 };
            let place = (offset + at).to_be_bytes();
            let end = at + u64::from(part.len);
            if part.data {
                let data = buf.slice(at as usize..end as usize);
                self.chunk_with(flags, chunk::OFFSET_DATA, &place, Some(data));
            } else {
                let hole = [&place[..], &part.len.to_be_bytes()].concat();
                self.chunk(flags, chunk::OFFSET_HOLE, &hole);
            }
            at = end;
        }
    }

    fn status(&mut self, contexts: [bool; 2], extents: &[Extent]) {
        let last = contexts.iter().rposition(|negotiated| *negotiated);
        for id in (0..CONTEXTS.len()).filter(|id| contexts[*id]) {
            let mut payload = (id as u32).to_be_bytes().to_vec();
            for (len, state) in merged(extents.iter().map(|extent| (extent.len, state(id, extent)))) {
                // The sum is a request's length, which has 32 bits.
                payload.extend((len as u32).to_be_bytes());
                payload.extend(state.to_be_bytes());
            }
            let flags = if last == Some(id) { chunk::DONE } else { 0 };
            self.chunk(flags, chunk::BLOCK_STATUS, &payload);
        }
    }
}

/// Returns the number for an extent in one of [`CONTEXTS`].
pub(crate) fn state(context: usize, extent: &Extent) -> u32 {
    match context {
        0 if extent.data => 0,
        0 => STATE_HOLE | STATE_ZERO,
        _ => extent.depth,
    }
}

/// Joins neighbours of one kind.
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
