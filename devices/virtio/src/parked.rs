//! Chains that a device keeps for later: until the machine, which was stopped because of them, is resumed,
//! or between two pieces of their work.

use std::rc::Rc;

use crate::queue::{Ring, Token};
use crate::runner::Shared;

/// A chain between two attempts at it. Its bytes still count for the limit of its ring, but it is not in
/// flight: a pause or a reset does not wait for it.
///
/// It stays parked while the device is paused, and, after [`Token::park_until_resumed`], until the
/// device was paused and resumed. Dropping it breaks the device, as dropping a [`Token`] does, except
/// during a reset, which forgets all chains.
pub struct ParkedChain<K: 'static = ()> {
    /// `None` once the chain is taken back.
    ring: Option<Rc<Ring<K>>>,
    head: u16,
    bytes: u64,
    descriptors: u16,
    /// The number of resumes from which on it may be taken back.
    from: u64,
}

impl<K: 'static> Token<K> {
    /// Parks the chain until the device has been paused and resumed. The caller must drop what stands
    /// for the chain being in flight (a `K`).
    pub fn park_until_resumed(self) -> ParkedChain<K> {
        self.parked(1)
    }

    /// Parks the chain between two pieces of its work: it may be taken back at once, unless the device
    /// is paused. Otherwise like [`Token::park_until_resumed`].
    pub fn park(self) -> ParkedChain<K> {
        self.parked(0)
    }

    fn parked(mut self, resumes: u64) -> ParkedChain<K> {
        let ring = self.ring.take();
        let from = ring.as_ref().map_or(0, |ring| ring.shared.resumes.get().saturating_add(resumes));
        if let Some(ring) = &ring {
            ring.shared.delivered(1);
        }
        let Token { head, bytes, descriptors, .. } = self;
        ParkedChain { ring, head, bytes, descriptors, from }
    }
}

impl<K: 'static> ParkedChain<K> {
    /// Waits until the chain may be taken back; forever if a reset comes first. The future may be dropped.
    pub async fn ready(&self) {
        if let Some(ring) = &self.ring {
            while self.is_to_wait(&ring.shared) {
                ring.shared.resumed.wait().await;
            }
        }
    }

    fn is_to_wait(&self, shared: &Shared) -> bool {
        shared.paused.get() || shared.resumes.get() < self.from
    }

    /// Puts the chain in flight again.
    ///
    /// # Errors
    /// Returns itself if the device is paused, or has not been resumed as required.
    pub fn take_back(mut self) -> Result<Token<K>, Self> {
        let Some(shared) = self.ring.as_ref().map(|ring| ring.shared.clone()) else { return Err(self) };
        if self.is_to_wait(&shared) {
            return Err(self);
        }
        shared.taken();
        let ParkedChain { head, bytes, descriptors, .. } = self;
        Ok(Token { ring: self.ring.take(), head, bytes, descriptors })
    }
}

impl<K: 'static> Drop for ParkedChain<K> {
    fn drop(&mut self) {
        let Some(ring) = self.ring.take() else { return };
        if !ring.shared.silent.get() {
            ring.lost();
        }
        ring.release(self.bytes);
    }
}
