//! Replies, matched with the requests that they answer (sections "Simple reply message", "Structured
//! reply chunk message").

use buf::Buf;

use super::{Pending, Shared, Status, errno, printable};
use crate::disconnect::Disconnect;
use crate::export::Error;
use crate::proto::{Fields, MAX_STRING, SIMPLE_MAGIC, STATE_ZERO, STRUCTURED_MAGIC, chunk, command};

/// The most runs in one answer, as QEMU's server sends them (1 MiB); a longer answer ends the connection.
const MAX_STATUS: usize = 128 << 10;
/// The number of runs that are received at once: the answer is never in memory as a whole.
const STATUS_PIECE: usize = 4 << 10;
/// A read may come in one chunk for each sector of this size in bytes, and a few more that carry nothing.
const SMALLEST_CHUNK: u64 = 512;
const SPARE_CHUNKS: u64 = 16;

fn violation<T>(what: &'static str) -> Result<T, Disconnect> {
    Err(Disconnect::Server(what))
}

impl Shared {
    /// Receives replies until the server hangs up.
    pub(super) async fn receive(&self) -> Result<(), Disconnect> {
        loop {
            let mut magic = [0; 4];
            if !self.link.fill_or_end(&mut magic).await? {
                return Ok(());
            }
            match u32::from_be_bytes(magic) {
                SIMPLE_MAGIC => self.simple().await?,
                STRUCTURED_MAGIC if self.terms.structured => self.chunk().await?,
                _ => return violation("sent something that is not a reply"),
            }
        }
    }

    /// Takes the request that a reply is for out of the table. It is not in the table while its memory
    /// is being filled, so that its caller gets the answer only when nothing is written any more,
    /// whatever ends the transmission.
    fn take(&self, cookie: u64) -> Result<Pending, Disconnect> {
        let pending = self.pending.borrow_mut().remove(&cookie);
        pending.ok_or(Disconnect::Server("answered a request that was not sent"))
    }

    fn answered(&self, mut pending: Pending, result: Result<Vec<Status>, Error>) {
        self.progress.set(executor::now());
        self.owed.update(|n| n - 1);
        if let Some(answer) = pending.answer.take() {
            answer.send(result);
        }
    }

    async fn simple(&self) -> Result<(), Disconnect> {
        let mut head = [0; 12];
        self.link.fill(&mut head).await?;
        let mut fields = Fields(&head);
        let (Some(number), Some(cookie)) = (fields.u32(), fields.u64()) else { return Ok(()) };
        let pending = self.take(cookie)?;
        if number != 0 {
            let errno = errno(number);
            let text = format!("the server answers: {}", errno.text());
            self.answered(pending, Err(Error::new(errno, text)));
            return Ok(());
        }
        match pending.request.command {
            command::READ if self.terms.structured => return violation("sent a simple reply to a read"),
            command::BLOCK_STATUS => return violation("sent a simple reply to a block status"),
            command::READ => {
                if let Some(buf) = &pending.buf {
                    self.link.fill_buf(buf).await?;
                }
            }
            _ => {}
        }
        self.answered(pending, Ok(Vec::new()));
        Ok(())
    }

    async fn chunk(&self) -> Result<(), Disconnect> {
        let mut head = [0; 16];
        self.link.fill(&mut head).await?;
        let mut fields = Fields(&head);
        let (Some(flags), Some(kind), Some(cookie), Some(len)) =
            (fields.u16(), fields.u16(), fields.u64(), fields.u32())
        else {
            return Ok(());
        };
        let mut pending = self.take(cookie)?;
        pending.chunks += 1;
        if pending.chunks > u64::from(pending.request.len) / SMALLEST_CHUNK + SPARE_CHUNKS {
            return violation("sent a reply in too many pieces");
        }
        let of = pending.request.command;
        match kind {
            chunk::NONE if len == 0 && flags & chunk::DONE != 0 => {}
            chunk::OFFSET_DATA if of == command::READ && len > 8 => self.data(&mut pending, len - 8).await?,
            chunk::OFFSET_HOLE if of == command::READ && len == 12 => self.hole(&mut pending).await?,
            chunk::BLOCK_STATUS if of == command::BLOCK_STATUS => self.status(&mut pending, len).await?,
            _ if kind & chunk::IS_ERROR != 0 => self.error(&mut pending, len).await?,
            _ => return violation("sent a piece that does not belong to its request"),
        }
        if flags & chunk::DONE == 0 {
            self.pending.borrow_mut().insert(cookie, pending);
            return Ok(());
        }
        let whole = pending.arrived.first_key_value() == Some((&0, &pending.request.len));
        let status = std::mem::take(&mut pending.status);
        let result = match pending.error.take() {
            Some(error) => Err(error),
            None if of == command::READ && !whole => return violation("left a part of a read out"),
            None if of == command::BLOCK_STATUS && status.is_empty() => {
                return violation("sent no block status");
            }
            None => Ok(status),
        };
        self.answered(pending, result);
        Ok(())
    }

    async fn data(&self, pending: &mut Pending, len: u32) -> Result<(), Disconnect> {
        let mut offset = [0; 8];
        self.link.fill(&mut offset).await?;
        let part = pending.arrives(u64::from_be_bytes(offset), len)?;
        Ok(self.link.fill_buf(&part).await?)
    }

    async fn hole(&self, pending: &mut Pending) -> Result<(), Disconnect> {
        let mut payload = [0; 12];
        self.link.fill(&mut payload).await?;
        let mut fields = Fields(&payload);
        let (Some(offset), Some(len)) = (fields.u64(), fields.u32()) else { return Ok(()) };
        pending.arrives(offset, len)?.zero();
        Ok(())
    }

    async fn status(&self, pending: &mut Pending, len: u32) -> Result<(), Disconnect> {
        let len = len as usize;
        if len < 12 || len % 8 != 4 || len > 4 + 8 * MAX_STATUS {
            return violation("sent a block status of a wrong length");
        }
        let mut context = [0; 4];
        self.link.fill(&mut context).await?;
        if Fields(&context).u32() != self.terms.allocation || !pending.status.is_empty() {
            return violation("sent a block status that was not asked for");
        }
        let mut left = pending.request.len;
        let mut payload = vec![0; (len - 4).min(8 * STATUS_PIECE)];
        let mut rest = len - 4;
        while rest > 0 {
            let piece = &mut payload[..rest.min(8 * STATUS_PIECE)];
            rest -= piece.len();
            self.link.fill(piece).await?;
            let mut fields = Fields(piece);
            while let (Some(len), Some(state)) = (fields.u32(), fields.u32()) {
                if len == 0 {
                    return violation("sent a run of no bytes");
                }
                // Only the last run may reach beyond the requested range.
                let (len, zero) = (len.min(left), state & STATE_ZERO != 0);
                left -= len;
                match pending.status.last_mut().filter(|last| last.zero == zero) {
                    Some(last) => last.len += len,
                    None if len > 0 => pending.status.push(Status { len, zero }),
                    None => {}
                }
            }
        }
        Ok(())
    }

    async fn error(&self, pending: &mut Pending, len: u32) -> Result<(), Disconnect> {
        let len = len as usize;
        if len > 6 + MAX_STRING + 8 {
            return violation("sent an error that is too long");
        }
        let mut payload = vec![0; len];
        self.link.fill(&mut payload).await?;
        let mut fields = Fields(&payload);
        let (Some(number), Some(text)) = (fields.u32(), fields.u16()) else {
            return violation("sent an error that is too short");
        };
        let Some(text) = fields.bytes(usize::from(text)) else {
            return violation("sent an error that is cut off");
        };
        let errno = errno(number);
        let text = match printable(text) {
            text if text.is_empty() => format!("the server answers: {}", errno.text()),
            text => format!("the server answers: {}: {text}", errno.text()),
        };
        pending.error.get_or_insert(Error::new(errno, text));
        Ok(())
    }
}

impl Pending {
    /// Records a part of a read, which must not have arrived before. Returns its place in memory.
    fn arrives(&mut self, offset: u64, len: u32) -> Result<Buf, Disconnect> {
        let within = offset.checked_sub(self.request.offset).and_then(|at| u32::try_from(at).ok());
        let place = within.and_then(|from| Some((from, from.checked_add(len)?)));
        let Some((from, to)) = place.filter(|(from, to)| from < to && *to <= self.request.len) else {
            return violation("sent data from outside of what was asked for");
        };
        let before = self.arrived.range(..to).next_back().map(|(from, to)| (*from, *to));
        let mut whole = (from, to);
        if let Some(before) = before {
            if before.1 > from {
                return violation("sent the same data twice");
            }
            if before.1 == from {
                whole.0 = before.0;
            }
        }
        if let Some(end) = self.arrived.remove(&to) {
            whole.1 = end;
        }
        self.arrived.insert(whole.0, whole.1);
        let buf = self.buf.as_ref().ok_or(Disconnect::Server("sent data for no read"))?;
        Ok(buf.slice(from as usize..to as usize))
    }
}
