//! The copy loop: all that is absent, several chunks at once.
//!
//! The loop knows its image and its job, and nothing of commands, error policies and completion.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use executor::sync::Semaphore;

use crate::job::Job;
use crate::node::Node;
use crate::populate::populate;
use crate::{Error, Result};

/// The largest populate of the background stream, in bytes.
const CHUNK: u64 = 1 << 20;
/// Populates in flight.
const DEPTH: u64 = 4;
/// Bytes between two commits of the leaf: bounds what a crash makes the stream do again.
const COMMIT_EVERY: u64 = 64 << 20;
/// The largest hole that is made zero in one step.
const HOLE: u64 = 1 << 30;

/// What is below the frontier, and what was finished ahead of it.
struct Frontier {
    job: Rc<Job>,
    at: RefCell<u64>,
    ahead: RefCell<BTreeMap<u64, u64>>,
}

impl Frontier {
    fn finish(&self, range: Range<u64>) {
        let (mut at, mut ahead) = (self.at.borrow_mut(), self.ahead.borrow_mut());
        ahead.insert(range.start, range.end);
        while let Some(entry) = ahead.first_entry() {
            if *entry.key() > *at {
                break;
            }
            *at = (*at).max(entry.remove());
        }
        self.job.advance(*at);
    }
}

/// A copy that failed. The first one counts whose range is lowest: below it all was tried.
pub(super) struct Failed {
    /// Where, as far as it is known: a loop that goes on behind it leaves nothing else out.
    pub range: Range<u64>,
    pub error: Error,
}

/// Populates all that is absent from `from` on. Nothing is in flight when this ends.
///
/// # Errors
/// The first copy that failed, in the order of offsets; `Cancelled` where the job was.
pub(super) async fn copy_all(leaf: &Rc<Node>, job: &Rc<Job>, from: u64) -> std::result::Result<(), Failed> {
    let Some(backing) = leaf.backing() else { return Ok(()) };
    let size = leaf.size();
    let frontier = Rc::new(Frontier { job: job.clone(), at: RefCell::new(from), ahead: RefCell::default() });
    let slots = Semaphore::new(DEPTH);
    let failed: Rc<RefCell<Option<Failed>>> = Rc::default();
    let mut at = from;
    let mut since_commit = 0;
    let result: Result<()> = async {
        while at < size && failed.borrow().is_none() {
            if job.must_rest() {
                let _idle = slots.acquire(DEPTH).await;
                job.rest().await?;
                continue;
            }
            let Some(absent) = leaf.next_absent(at..size, HOLE).await? else {
                frontier.finish(at..size);
                break;
            };
            if absent.start > at {
                frontier.finish(at..absent.start);
                at = absent.start;
            }
            // A hole costs no data, so it is taken in large steps.
            let below = backing.map(absent.start, absent.end - absent.start).await?;
            let unit = leaf.cluster_size();
            let most = if below.data { job.step(CHUNK) } else { below.len.max(CHUNK) };
            let end = (absent.start - absent.start % unit + most.next_multiple_of(unit)).min(absent.end);
            let chunk = absent.start..end;
            job.admit(if below.data { end - chunk.start } else { 0 }).await;
            if job.must_rest() {
                continue;
            }
            // A task of its own: it never waits for this loop, which may rest for long.
            let slot = slots.acquire(1).await;
            at = end;
            since_commit += end - chunk.start;
            executor::spawn({
                let (leaf, frontier, failed) = (leaf.clone(), frontier.clone(), failed.clone());
                async move {
                    match populate(&leaf, chunk.clone()).await {
                        Ok(done) => {
                            frontier.job.count(done);
                            frontier.finish(chunk);
                        }
                        Err(error) => note(&failed, Failed { range: chunk, error }),
                    }
                    drop(slot);
                }
            });
            if since_commit >= COMMIT_EVERY {
                since_commit = 0;
                leaf.flush().await?;
            }
        }
        Ok(())
    }
    .await;
    // Waited for after an error too: whoever goes on finds nothing half done.
    let _idle = slots.acquire(DEPTH).await;
    if let Err(error) = result {
        note(&failed, Failed { range: at..at, error });
    }
    failed.take().map_or(Ok(()), Err)
}

/// Keeps the lowest.
fn note(failed: &RefCell<Option<Failed>>, new: Failed) {
    let mut failed = failed.borrow_mut();
    match &*failed {
        Some(old) if old.range.start <= new.range.start => {}
        _ => *failed = Some(new),
    }
}
