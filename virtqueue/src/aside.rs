//! Chains that a device keeps for later, when the machine was stopped because of them.

use std::rc::Rc;

use crate::queue::{Ring, Token};

/// A chain between two attempts at it. It counts among those of its ring (so its bytes bound what else is
/// taken), but as none in flight: a pause or a reset does not wait for it.
///
/// It stays aside until the device was paused and resumed. Dropped before a reset, it takes the device for
/// broken as a [`Token`] does; dropped by the reset, which forgets all chains, it leaves no trace.
pub struct Aside<K: 'static = ()> {
    /// `None` once it is taken back.
    ring: Option<Rc<Ring<K>>>,
    head: u16,
    bytes: u64,
    /// Resumes until it was set aside.
    resumes: u64,
}

impl<K: 'static> Token<K> {
    /// Sets the chain aside until the device has been paused and resumed. What stands for the chain being in
    /// flight (a `K`) is the caller's to drop.
    pub fn set_aside(mut self) -> Aside<K> {
        let ring = self.ring.take();
        let resumes = ring.as_ref().map_or(0, |ring| ring.shared.resumes.get());
        if let Some(ring) = &ring {
            ring.shared.delivered(1);
        }
        Aside { ring, head: self.head, bytes: self.bytes, resumes }
    }
}

impl<K: 'static> Aside<K> {
    /// Waits until the device goes on; for ever where a reset comes first. The future may be dropped.
    pub async fn resumed(&self) {
        if let Some(ring) = &self.ring {
            while ring.shared.paused.get() || ring.shared.resumes.get() == self.resumes {
                ring.shared.resumed.wait().await;
            }
        }
    }

    /// The chain in flight again.
    ///
    /// # Errors
    /// Gives itself back where the device has not been resumed, or is paused again.
    pub fn take_back(mut self) -> Result<Token<K>, Self> {
        let Some(shared) = self.ring.as_ref().map(|ring| ring.shared.clone()) else { return Err(self) };
        if shared.paused.get() || shared.resumes.get() == self.resumes {
            return Err(self);
        }
        shared.taken();
        Ok(Token { ring: self.ring.take(), head: self.head, bytes: self.bytes })
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
