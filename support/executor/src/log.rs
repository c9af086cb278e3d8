//! Log lines that somebody outside can cause as often as they like: a guest, an image, a client, a peer.
//!
//! [`limited!`](crate::limited) writes such a line, and leaves it out where there were many of its kind.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// As many lines of a kind are written at once.
pub const BURST: u32 = 10;
/// Then one for each such time.
pub const EACH: Duration = Duration::from_secs(10);

/// How many lines of one kind may be written now. Any thread may use it.
pub struct Limit(Mutex<State>);

struct State {
    /// Lines that may be written, as of `since`.
    left: u32,
    /// `None` before the first.
    since: Option<Instant>,
    left_out: u64,
}

impl Limit {
    /// Nothing was written yet.
    pub const fn new() -> Self {
        Limit(Mutex::new(State { left: BURST, since: None, left_out: 0 }))
    }

    /// Takes leave to write a line. With it comes how many were left out since the last one; `None` if this
    /// one is to be left out.
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

/// Writes a log line that somebody outside can cause: `limited!(warn, "client {name}: {e}")`, with what the
/// macro `tracing::warn` takes. Each place in the code writes [`log::BURST`](crate::log::BURST) lines at once
/// and then one each [`log::EACH`](crate::log::EACH), and says how many were left out.
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
        // A line each millisecond, for a hundred seconds.
        for n in 0..100_000 {
            written.extend(limit.pass_at(start + Duration::from_millis(n)));
        }
        assert_eq!(written.len(), 19);
        assert_eq!(written[..10], [0; 10]);
        assert_eq!(written[10], 9_990, "{written:?}");
        let after = start + Duration::from_secs(3600);
        assert_eq!(limit.pass_at(after), Some(9_999));
        // Silence earns a burst, and no more.
        assert_eq!((0..100).filter_map(|_| limit.pass_at(after)).count(), 9);
    }
}
