//! Chains that a device keeps for later: until the machine that was stopped because of them goes on, or
//! between two pieces of their work.

use std::rc::Rc;

use crate::queue::{Ring, Token};
use crate::runner::Shared;

/// A chain between two attempts at it. It counts among those of its ring (so its bytes bound what else is
/// taken), but as none in flight: a pause or a reset does not wait for it.
///
/// It stays aside while the device is paused, and by [`Token::set_aside`] until it was paused and resumed.
/// Dropped before a reset, it takes the device for broken as a [`Token`] does; dropped by the reset, which
/// forgets all chains, it leaves no trace.
pub struct Aside<K: 'static = ()> {
    /// `None` once it is taken back.
    ring: Option<Rc<Ring<K>>>,
    head: u16,
    bytes: u64,
    descriptors: u16,
    /// The resume from which on it may be taken back.
    from: u64,
}

impl<K: 'static> Token<K> {
    /// Sets the chain aside until the device has been paused and resumed. What stands for the chain being in
    /// flight (a `K`) is the caller's to drop.
    pub fn set_aside(self) -> Aside<K> {
        self.aside(1)
    }

    /// Sets the chain aside between two pieces of its work: it may be taken back at once, unless the device
    /// is paused. As [`Token::set_aside`] otherwise.
    pub fn set_aside_for_now(self) -> Aside<K> {
        self.aside(0)
    }

    fn aside(mut self, resumes: u64) -> Aside<K> {
        let ring = self.ring.take();
        let from = ring.as_ref().map_or(0, |ring| ring.shared.resumes.get().saturating_add(resumes));
        if let Some(ring) = &ring {
            ring.shared.delivered(1);
        }
        let Token { head, bytes, descriptors, .. } = self;
        Aside { ring, head, bytes, descriptors, from }
    }
}

impl<K: 'static> Aside<K> {
    /// Waits until the chain may be taken back; for ever if a reset comes first. The future may be dropped.
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

    /// The chain in flight again.
    ///
    /// # Errors
    /// Gives itself back if the device is paused, or has not been resumed as it is to be.
    pub fn take_back(mut self) -> Result<Token<K>, Self> {
        let Some(shared) = self.ring.as_ref().map(|ring| ring.shared.clone()) else { return Err(self) };
        if self.is_to_wait(&shared) {
            return Err(self);
        }
        shared.taken();
        let Aside { head, bytes, descriptors, .. } = self;
        Ok(Token { ring: self.ring.take(), head, bytes, descriptors })
    }
}

impl<K: 'static> Drop for Aside<K> {
    fn drop(&mut self) {
        let Some(ring) = self.ring.take() else { return };
        if !ring.shared.silent.get() {
            ring.lost();
        }
        ring.release(self.bytes);
    }
}
