//! Copies between files whose data does not pass through the disk's thread.
//!
//! FICLONERANGE shares the blocks if the file system can. Otherwise, between files in the page cache, a
//! worker copies in steps that fit into its processor's cache, and leaves zeros out; copy_file_range(2)
//! would save one of the two copies, but write the zeros.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

/// A step of a copy through the page cache, in bytes: a power of two that a processor's cache holds.
const STEP: u64 = 64 << 10;

/// The number of ranges in a row that do not fit after which sharing is not tried again.
const MISFITS: u32 = 8;

/// The experience with sharing blocks for this file: once the file system was found unable to, it is not
/// tried again.
#[derive(Default)]
pub(super) struct Known {
    refused: Cell<bool>,
    misfits: Cell<u32>,
}

/// Returns true for errors that say that sharing is not possible here or for this range, and nothing about
/// the data.
fn is_refusal(e: &io::Error) -> bool {
    use libc::{EBADF, EINVAL, EISDIR, ENOSYS, ENOTTY, EOPNOTSUPP, EPERM, ETXTBSY, EXDEV};
    let refusals = [EBADF, EINVAL, EISDIR, ENOSYS, ENOTTY, EOPNOTSUPP, EPERM, ETXTBSY, EXDEV];
    e.raw_os_error().is_some_and(|code| refusals.contains(&code))
}

impl Known {
    /// Returns true if sharing is worth trying.
    pub(super) fn may_work(&self) -> bool {
        !self.refused.get()
    }

    /// Makes `len` bytes of `target` share the blocks of `source`. Returns false if that is not possible.
    pub(super) async fn share(
        &self,
        source: &Rc<File>,
        from: u64,
        target: &Rc<File>,
        to: u64,
        len: u64,
    ) -> io::Result<bool> {
        if self.refused.get() {
            return Ok(false);
        }
        let (source, target) = (source.try_clone()?, target.try_clone()?);
        match executor::unblock(move || clone_range(&source, from, &target, to, len)).await {
            Ok(()) => {
                self.misfits.set(0);
                Ok(true)
            }
            Err(e) if is_refusal(&e) => {
                self.refuse(&e);
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    fn refuse(&self, e: &io::Error) {
        // EINVAL may concern only this range, if it is not whole blocks of the file system. If clusters
        // are smaller than those blocks, it concerns nearly all ranges.
        self.misfits.update(|n| n + 1);
        self.refused.set(e.raw_os_error() != Some(libc::EINVAL) || self.misfits.get() >= MISFITS);
    }
}

pub(crate) fn clone_range(source: &File, from: u64, target: &File, to: u64, len: u64) -> io::Result<()> {
    let range = libc::file_clone_range {
        src_fd: source.as_raw_fd().into(),
        src_offset: from,
        src_length: len,
        dest_offset: to,
    };
    // SAFETY: the ioctl reads one `file_clone_range`, which lives through the call.
    let done = unsafe { libc::ioctl(target.as_raw_fd(), libc::FICLONERANGE, &range) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The operation that failed, with the offset in its file.
pub(super) enum Failed {
    Read(u64, io::Error),
    Write(u64, io::Error),
}

/// Copies bytes between files in the page cache, on a worker. Units that are all zero are not written.
/// Returns the ranges of those, relative to the start, and in case of a failure the length that was copied
/// before it. `unit` is a power of two.
pub(super) async fn through_cache(
    source: &Rc<File>,
    from: u64,
    target: &Rc<File>,
    to: u64,
    len: u64,
    unit: u64,
) -> (Vec<Range<u64>>, Option<(u64, Failed)>) {
    let (source, target) = match (source.try_clone(), target.try_clone()) {
        (Ok(source), Ok(target)) => (source, target),
        (Err(e), _) => return (Vec::new(), Some((0, Failed::Read(from, e)))),
        (_, Err(e)) => return (Vec::new(), Some((0, Failed::Write(to, e)))),
    };
    let copy = Copy { source, from, target, to, unit, zero: Vec::new(), mixed: 0 };
    executor::unblock(move || copy.run(len)).await
}

struct Copy {
    source: File,
    from: u64,
    target: File,
    to: u64,
    unit: u64,
    /// The ranges that were left out, relative to the start.
    zero: Vec<Range<u64>>,
    /// The end of the last unit with data: up to there, zeros are written too.
    mixed: u64,
}

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; STEP as usize].into());
}

impl Copy {
    fn run(mut self, len: u64) -> (Vec<Range<u64>>, Option<(u64, Failed)>) {
        let mut at = 0;
        let done = BUFFER.with_borrow_mut(|buffer| {
            while at < len {
                let step = &mut buffer[..STEP.min(len - at) as usize];
                self.read(at, step)?;
                self.write_data(at, step)?;
                at += step.len() as u64;
            }
            Ok(())
        });
        (self.zero, done.err().map(|failed| (at, failed)))
    }

    /// Reads the whole of `step`; bytes past the file's end read as zeros.
    fn read(&self, at: u64, step: &mut [u8]) -> Result<(), Failed> {
        let mut done = 0;
        while done < step.len() {
            let offset = self.from + at + done as u64;
            match self.source.read_at(&mut step[done..], offset) {
                Ok(0) => {
                    step[done..].fill(0);
                    break;
                }
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Failed::Read(offset, e)),
            }
        }
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Failed> {
        let offset = self.to + at;
        self.target.write_all_at(bytes, offset).map_err(|e| Failed::Write(offset, e))
    }

    /// Writes a step except for units that are all zero; neighbouring pieces take one call.
    fn write_data(&mut self, at: u64, step: &[u8]) -> Result<(), Failed> {
        let size = self.unit.min(STEP) as usize;
        let mut data = 0..0;
        for (n, piece) in step.chunks(size).enumerate() {
            let here = at + (n * size) as u64;
            if here >= self.mixed && crate::buf::is_zero(piece) {
                self.leave_out(here, piece.len() as u64);
                continue;
            }
            let unit = here - here % self.unit;
            if here >= self.mixed && here > unit {
                self.take_in(unit, here)?;
            }
            self.mixed = unit + self.unit;
            if data.end != n * size {
                self.write(at + data.start as u64, &step[data])?;
                data = n * size..n * size;
            }
            data.end += piece.len();
        }
        self.write(at + data.start as u64, &step[data])
    }

    fn leave_out(&mut self, at: u64, len: u64) {
        match self.zero.last_mut().filter(|last| last.end == at) {
            Some(last) => last.end += len,
            None => self.zero.push(at..at + len),
        }
    }

    /// Writes the zeros of a unit that were left out before data was found in it.
    fn take_in(&mut self, unit: u64, end: u64) -> Result<(), Failed> {
        if let Some(last) = self.zero.last_mut() {
            last.end = unit;
            if last.is_empty() {
                self.zero.pop();
            }
        }
        let zeros = [0; 4096];
        let mut at = unit;
        while at < end {
            let n = (end - at).min(zeros.len() as u64);
            self.write(at, &zeros[..n as usize])?;
            at += n;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
