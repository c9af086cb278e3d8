//! Several chains for one thing to be written, which are taken and given back together.

use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};

use crate::chain::Malformed;
use crate::queue::{Chain, Queue, Token};

/// Why there is no room. All chains are still in the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoRoom {
    /// The ring holds so many chains, whose room is not enough: wait for more, by
    /// [`Queue::available_beyond`].
    Yet(u16),
    /// As many chains as it may be are in the ring, or as many as its descriptors are enough for, and their
    /// room is not enough.
    Ever,
}

/// Chains that are written in their order, each to its end before the next. The driver finds all of them in
/// the used ring or none (virtio 1.2, 5.1.6.4.1). Dropped unwritten, it takes the device for broken.
pub struct Room {
    chains: Vec<Chain>,
}

impl Queue {
    /// Takes the first chains of the ring that have room for `bytes`, not more of them than it takes and at
    /// most `most`; none where that is not enough.
    ///
    /// A chain with bytes to read in it breaks the device: the answer is then [`NoRoom::Yet`].
    ///
    /// # Errors
    /// What [`NoRoom`] says.
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
        // A driver whose chains take two descriptors each fills its ring with half as many of them as there
        // are descriptors; then no further one will come before these are given back.
        let taken: u32 = chains.iter().map(|chain| u32::from(chain.token.descriptors)).sum();
        let least = chains.iter().map(|chain| u32::from(chain.token.descriptors)).min();
        let is_full = least.is_some_and(|least| taken + least > u32::from(self.size()));
        // Nobody else takes chains meanwhile: a queue is used by one task at a time.
        ring.queue.borrow_mut().set_next_avail(start);
        chains.into_iter().for_each(|chain| chain.token.put_back());
        Err(if count < most && !is_full { NoRoom::Yet(count) } else { NoRoom::Ever })
    }
}

impl Room {
    /// How many chains it is made of.
    pub fn chains(&self) -> usize {
        self.chains.len()
    }

    /// Writes these bytes one behind the other, as far as there is room, and gives the chains back.
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
            // A chain has at most 2^32 bytes, and more than fits is told as less, which is allowed.
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
    // It publishes the index, and all entries before it with that.
    last.complete(written, ());
}

#[cfg(test)]
#[path = "room_tests.rs"]
mod tests;
