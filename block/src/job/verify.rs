//! Verification: reads everything that a guest would read, and compares it with digests.
//!
//! It changes nothing, so streams may run beside it. What the guest writes meanwhile is read as it is then.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use crate::disk::job::{Job, JobKind, JobOptions, JobResult, Strategy, Verified};
use crate::disk::{Claimant, Disk, Needs};
use crate::storage::Opener;
use crate::{Buf, Error, ErrorKind, Result};

/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;
/// The resolution of ranges that cannot be read, in bytes.
const BLOCK: u64 = 4096;
/// The most ranges of each kind in a result.
const MOST: usize = 100;
/// The largest file of digests, in bytes.
const LARGEST: u64 = 128 << 20;

/// A range of the disk, and the SHA-256 that its content should have.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Expected {
    range: Range<u64>,
    digest: [u8; 32],
}

impl Disk {
    /// Starts a job that reads the whole disk, and compares it with the digests in the file `digests`,
    /// if that is given. Its lines are `OFFSET LENGTH SHA256`: bytes and hexadecimal digits. Empty
    /// lines, and lines that begin with `#`, are ignored. The result is [`JobResult::Verify`]; what is
    /// unreadable or different does not make the job fail.
    ///
    /// # Errors
    /// `InUse` if another command has the disk; errors of reading the file; `Invalid` if it is too
    /// large, or with the number of a malformed line.
    pub async fn start_verify(self: &Rc<Self>, digests: Option<&str>, options: JobOptions) -> Result<()> {
        let claim = self.claim(Claimant::Job(JobKind::Verify), Needs::Leaf, self.name())?;
        let expected = match digests {
            Some(name) => load(&*self.opener, name, self.size()).await?,
            None => Vec::new(),
        };
        let verify =
            Verify { disk: self.clone(), expected, done: Cell::default(), found: RefCell::default() };
        self.start_job(options, JobKind::Verify, claim, verify);
        Ok(())
    }
}

async fn load(opener: &dyn Opener, name: &str, size: u64) -> Result<Vec<Expected>> {
    let file = opener.open(name, false).await?;
    if file.len() > LARGEST {
        let text = format!("{name}: a file of digests must not be larger than {LARGEST} bytes");
        return Err(Error::new(ErrorKind::Invalid, text));
    }
    let buf = Buf::new(file.len() as usize);
    file.read(0, buf.clone()).await?;
    let (name, bytes) = (name.to_owned(), buf.to_vec());
    // Parsing a large file takes long, and must not block the disk's thread.
    executor::unblock(move || parse(&name, &String::from_utf8_lossy(&bytes), size)).await
}

fn parse(name: &str, text: &str, size: u64) -> Result<Vec<Expected>> {
    let lines =
        text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let expected = lines.map(|(n, line)| {
        let wrong = |what: &str| Error::new(ErrorKind::Invalid, format!("{name}: line {} {what}", n + 1));
        let expected = parse_line(line).ok_or_else(|| wrong("is not 'OFFSET LENGTH SHA256'"))?;
        match expected.range.end <= size {
            true => Ok(expected),
            false => Err(wrong("lies outside the disk")),
        }
    });
    expected.collect()
}

fn parse_line(line: &str) -> Option<Expected> {
    let mut words = line.split_ascii_whitespace();
    let (offset, len): (u64, u64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let digits = words.next().filter(|digits| digits.len() == 64 && digits.is_ascii())?;
    if words.next().is_some() || len == 0 {
        return None;
    }
    let mut digest = [0; 32];
    for (n, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * n..2 * n + 2)?, 16).ok()?;
    }
    Some(Expected { range: offset..offset.checked_add(len)?, digest })
}

/// Returns the parts of a disk of `size` bytes that no digest is known of.
fn uncovered(expected: &[Expected], size: u64) -> Vec<Range<u64>> {
    let mut ranges: Vec<_> = expected.iter().map(|expected| expected.range.clone()).collect();
    ranges.sort_unstable_by_key(|range| range.start);
    let mut gaps = Vec::new();
    let mut at = 0;
    for range in ranges.into_iter().chain(std::iter::once(size..size)) {
        if at < range.start {
            gaps.push(at..range.start);
        }
        at = at.max(range.end);
    }
    gaps
}

/// Adds a range to a list of at most [`MOST`]; neighbours are joined.
fn note(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    if let Some(last) = ranges.last_mut().filter(|last| last.end == range.start) {
        last.end = range.end;
    } else if ranges.len() < MOST {
        ranges.push(range);
    }
}

/// The strategy: reads what has a digest, then the rest.
struct Verify {
    disk: Rc<Disk>,
    expected: Vec<Expected>,
    /// Bytes that are done.
    done: Cell<u64>,
    found: RefCell<Verified>,
}

impl Verify {
    /// Reads a range and returns its digest, or `None` if a part of it cannot be read.
    async fn read(&self, job: &Job, range: Range<u64>) -> Result<Option<[u8; 32]>> {
        let mut hasher = Some(Sha256::new());
        let mut at = range.start;
        while at < range.end {
            job.rest().await?;
            let len = job.step(PIECE).min(range.end - at);
            job.admit(len).await;
            if job.must_rest() {
                continue;
            }
            let buf = Buf::new(len as usize);
            let ticket = self.disk.begin_copy().await;
            let read = self.disk.leaf().read(at, buf.clone()).await;
            drop(ticket);
            match read {
                Ok(()) => {
                    self.found.borrow_mut().bytes += len;
                    if let Some(mut begun) = hasher.take() {
                        // On another thread: the guest's requests are this one's.
                        let bytes = buf.to_vec();
                        let hash = move || {
                            begun.update(&bytes);
                            begun
                        };
                        hasher = Some(executor::unblock(hash).await);
                    }
                }
                Err(_) => {
                    hasher = None;
                    self.find_unreadable(at..at + len).await;
                }
            }
            at += len;
            self.done.set(self.done.get() + len);
            job.advance(self.done.get());
        }
        Ok(hasher.map(|hasher| hasher.finalize().into()))
    }

    /// Notes which blocks of a range cannot be read.
    async fn find_unreadable(&self, range: Range<u64>) {
        let mut at = range.start;
        while at < range.end {
            let end = (at - at % BLOCK + BLOCK).min(range.end);
            let ticket = self.disk.begin_copy().await;
            let read = self.disk.leaf().read(at, Buf::new((end - at) as usize)).await;
            drop(ticket);
            let mut found = self.found.borrow_mut();
            match read {
                Ok(()) => found.bytes += end - at,
                Err(_) => note(&mut found.unreadable, at..end),
            }
            at = end;
        }
    }
}

#[async_trait(?Send)]
impl Strategy for Verify {
    async fn run(&self, job: &Rc<Job>) -> Result<()> {
        let rest = uncovered(&self.expected, self.disk.size());
        let ranges = self.expected.iter().map(|expected| &expected.range).chain(&rest);
        job.set_len(ranges.map(|range| range.end - range.start).sum());
        for Expected { range, digest } in &self.expected {
            if self.read(job, range.clone()).await?.is_some_and(|found| found != *digest) {
                note(&mut self.found.borrow_mut().differing, range.clone());
            }
        }
        for range in rest {
            self.read(job, range).await?;
        }
        Ok(())
    }

    async fn finish(&self, _: &Rc<Job>) -> Result<()> {
        Ok(())
    }

    async fn clean(&self) {}

    fn result(&self) -> Option<JobResult> {
        Some(JobResult::Verify(self.found.borrow().clone()))
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
