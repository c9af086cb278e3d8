//! Work on a range in pieces: several in flight at once, and zeros of bounded size.

use std::future::Future;
use std::ops::Range;

use futures_util::StreamExt;

use crate::{Buf, Result};

/// Awaits all parts, at most `most` of them at once, and even if one fails: the caller reuses their buffers
/// and releases their locks afterwards, and a stale write must not come after a newer one. Returns the first
/// error.
pub(crate) async fn all_of<F>(parts: impl IntoIterator<Item = F>, most: usize) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let mut results = futures_util::stream::iter(parts).buffer_unordered(most);
    let mut outcome = Ok(());
    while let Some(result) = results.next().await {
        outcome = outcome.and(result);
    }
    outcome
}

/// Calls `write` with zeros for a range, in pieces of at most 1 MiB. It returns the number of bytes that it
/// has dealt with, at least 1.
pub(crate) async fn zeros(
    range: Range<u64>,
    mut write: impl AsyncFnMut(u64, Buf) -> Result<u64>,
) -> Result<()> {
    const PIECE: u64 = 1 << 20;
    let zeros = Buf::new(range.end.saturating_sub(range.start).min(PIECE) as usize);
    let mut at = range.start;
    while at < range.end {
        let len = (range.end - at).min(PIECE);
        at += write(at, zeros.slice(0..len as usize)).await?;
    }
    Ok(())
}
