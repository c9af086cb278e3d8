//! The password of a server, which may change while the server runs.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// The number of bytes of a password that count: the length of a DES key (RFC 6143, section 7.2.2).
pub const PASSWORD_LEN: usize = 8;

/// An empty password, which would let everybody in who presses Enter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the password is empty")]
pub struct EmptyPassword;

/// The password of a server, usable from any thread. Clones share it. At first none is set, and then no
/// client gets in.
///
/// A change counts for clients that log in after it; sessions that are open stay open.
#[derive(Clone, Default)]
pub struct Password(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    key: Option<[u8; PASSWORD_LEN]>,
    expires: Option<SystemTime>,
}

impl Password {
    /// A password that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the password. Its first [`PASSWORD_LEN`] bytes count.
    ///
    /// # Errors
    /// [`EmptyPassword`]; the password is then as it was.
    pub fn set(&self, password: &str) -> Result<(), EmptyPassword> {
        if password.is_empty() {
            return Err(EmptyPassword);
        }
        let mut key = [0; PASSWORD_LEN];
        for (to, from) in key.iter_mut().zip(password.bytes()) {
            *to = from;
        }
        self.state().key = Some(key);
        Ok(())
    }

    /// Sets the time from which on the password lets nobody in; `None` for never. It stays as it is when the
    /// password changes.
    pub fn expire(&self, at: Option<SystemTime>) {
        self.state().expires = at;
    }

    /// Returns true if a password was set, be it expired or not.
    pub fn is_set(&self) -> bool {
        self.state().key.is_some()
    }

    /// Returns the password padded with zeros; `None` if it is not set or has expired.
    pub(crate) fn key(&self) -> Option<[u8; PASSWORD_LEN]> {
        let state = self.state();
        state.key.filter(|_| state.expires.is_none_or(|at| SystemTime::now() < at))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Password {
    /// Never prints the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Password").field("is_set", &self.is_set()).finish()
    }
}

#[cfg(test)]
#[path = "password_tests.rs"]
mod tests;
