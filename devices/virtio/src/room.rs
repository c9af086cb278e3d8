//! Several chains for one message to the driver, which are taken and given back together.

use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};

use crate::chain::Malformed;
use crate::queue::{Chain, Queue, Token};

/// The reason why there is not enough room. All chains are still in the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoRoom {
    /// The ring holds this many chains, and they are too small: wait for more with
    /// [`Queue::available_beyond`].
    NotEnough(u16),
    /// The ring holds the maximum number of chains, or as many as its descriptors suffice for, and they are
    /// too small.
    CannotFit,
}

/// Chains that are written in their order, each to its end before the next. The driver finds all of them in
/// the used ring or none (virtio 1.2, 5.1.6.4.1). Dropping it unwritten breaks the device.
pub struct Room {
    chains: Vec<Chain>,
}

impl Queue {
    /// Takes the first chains of the ring that have room for `bytes`, no more than necessary and at most
    /// `most`. Takes none if that is not enough.
    ///
    /// A chain with bytes to read breaks the device, and the result is an error.
    ///
    /// # Errors
    /// Fails with a [`NoRoom`] if there is not enough room.
    pub fn room(&self, bytes: usize, most: u16) -> Result<Room, NoRoom> {
        let ring = &self.0;
        let start = ring.queue.borrow().next_avail();
        let (mut chains, mut room) = (Vec::new(), 0);
        while room < bytes && chains.len() < usize::from(most) {
            let Some(chain) = self.take() else { break };
            if !chain.readable.is_empty() {
                chain.token.refuse(Malformed("bytes to read where only room may be"));
                break;
            }
            room += chain.writable.len();
            chains.push(chain);
        }
        if room >= bytes {
            return Ok(Room { chains });
        }
        let count = chains.len() as u16;
        // A driver whose chains take two descriptors each fills its ring with half as many chains as there
        // are descriptors. No further chain will then come before these are given back.
        let taken: u32 = chains.iter().map(|chain| u32::from(chain.token.descriptors)).sum();
        let least = chains.iter().map(|chain| u32::from(chain.token.descriptors)).min();
        let is_full = least.is_some_and(|least| taken + least > u32::from(self.size()));
        // Nobody else takes chains meanwhile: a queue is used by one task at a time.
        ring.queue.borrow_mut().set_next_avail(start);
        chains.into_iter().for_each(|chain| chain.token.put_back());
        Err(if count < most && !is_full { NoRoom::NotEnough(count) } else { NoRoom::CannotFit })
    }
}

impl Room {
    /// Returns the number of chains that it consists of.
    pub fn chains(&self) -> usize {
        self.chains.len()
    }

    /// Writes `parts` one behind the other, as far as there is room, and gives the chains back.
    pub fn write(self, parts: &[&[u8]]) {
        let mut parts = parts.iter().copied();
        let mut part: &[u8] = &[];
        let mut done = Vec::with_capacity(self.chains.len());
        for Chain { writable, token, .. } in self.chains {
            let mut at = 0;
            while at < writable.len() {
                if part.is_empty() {
                    match parts.next() {
                        Some(next) => part = next,
                        None => break,
                    }
                    continue;
                }
                let len = part.len().min(writable.len() - at);
                let (now, later) = part.split_at(len);
                writable.slice(at..at + len).copy_from(now);
                (at, part) = (at + len, later);
            }
            // A chain has at most 2^32 bytes. A length that does not fit is reported as less, which is
            // allowed.
            done.push((token, u32::try_from(at).unwrap_or(u32::MAX)));
        }
        complete(done);
    }
}

/// Gives chains of one ring back, with the bytes that were written to each.
fn complete(mut chains: Vec<(Token, u32)>) {
    let Some((last, written)) = chains.pop() else { return };
    if let Some(ring) = last.ring.as_ref().filter(|_| last.is_wanted()) {
        let mut queue = ring.queue.borrow_mut();
        for (token, written) in &chains {
            let next = queue.next_used();
            let entry = queue.used_ring() + 4 + 8 * u64::from(next % queue.size());
            let bytes = [u32::from(token.head).to_le_bytes(), written.to_le_bytes()].concat();
            if ring.memory().write_slice(&bytes, GuestAddress(entry)).is_err() {
                ring.shared.break_down(ring.index, Malformed("a used entry does not fit guest memory"));
            }
            queue.set_next_used(next.wrapping_add(1));
        }
    }
    for (mut token, _) in chains {
        token.hand_over(());
    }
    // Publishes the index, and with it all entries before this one.
    last.complete(written, ());
}

#[cfg(test)]
#[path = "room_tests.rs"]
mod tests;
