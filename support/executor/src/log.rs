//! Log lines that an outside party (a guest, an image, a client or a peer) can cause as often as it
//! likes.
//!
//! [`limited!`](crate::limited) writes such a line, and leaves it out if there were many of its kind.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The number of lines of one kind that may be written at once.
pub const BURST: u32 = 10;
/// After a burst, one more line is allowed each time this interval passes.
pub const EACH: Duration = Duration::from_secs(10);

/// The number of lines of one kind that may still be written. Usable from any thread.
pub struct Limit(Mutex<State>);

struct State {
    /// Lines that may be written, as of `since`.
    left: u32,
    /// `None` before the first line.
    since: Option<Instant>,
    left_out: u64,
}

impl Limit {
    /// A limit for which no line was written yet.
    pub const fn new() -> Self {
        Limit(Mutex::new(State { left: BURST, since: None, left_out: 0 }))
    }

    /// Asks to write one line. Returns the number of lines that were left out since the last one, or
    /// `None` if this one must be left out too.
    pub fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        // Nothing panics while holding it.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *state.since.get_or_insert(now);
        let due = now.saturating_duration_since(since).as_secs() / EACH.as_secs();
        if due > 0 {
            state.left = state.left.saturating_add(u32::try_from(due).unwrap_or(u32::MAX)).min(BURST);
            state.since = Some(now);
        }
        match state.left.checked_sub(1) {
            Some(left) => {
                state.left = left;
                Some(std::mem::take(&mut state.left_out))
            }
            None => {
                state.left_out = state.left_out.saturating_add(1);
                None
            }
        }
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes a log line that an outside party can cause: `limited!(warn, "client {name}: {e}")`, with the
/// arguments of the macro `tracing::warn`. Each place in the code writes
/// [`log::BURST`](crate::log::BURST) lines at once, then one per [`log::EACH`](crate::log::EACH), and
/// reports how many were left out.
#[macro_export]
macro_rules! limited {
    ($level:ident, $($line:tt)+) => {{
        static LIMIT: $crate::log::Limit = $crate::log::Limit::new();
        if let Some(left_out) = LIMIT.pass() {
            if left_out > 0 {
                tracing::$level!("{left_out} lines like the next one were left out");
            }
            tracing::$level!($($line)+);
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_and_says_how_long_it_was() {
        let (limit, start) = (Limit::new(), Instant::now());
        let mut written = Vec::new();
        // One line per millisecond, for a hundred seconds.
        for n in 0..100_000 {
            written.extend(limit.pass_at(start + Duration::from_millis(n)));
        }
        assert_eq!(written.len(), 19);
        assert_eq!(written[..10], [0; 10]);
        assert_eq!(written[10], 9_990, "{written:?}");
        let after = start + Duration::from_secs(3600);
        assert_eq!(limit.pass_at(after), Some(9_999));
        // A silence allows one burst, not more.
        assert_eq!((0..100).filter_map(|_| limit.pass_at(after)).count(), 9);
    }
}
