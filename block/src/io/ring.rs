//! One io_uring for one thread.
//!
//! Submissions are collected while tasks run and handed over in one system call before the thread
//! waits; completions wake their tasks. What the kernel may still touch (buffer, descriptor) lives in
//! the ring's table until the completion, whatever happens to the task that asked.
//!
//! Seccomp does not see the operations in a ring. So the kernel itself restricts each ring, for good, to
//! the operations of this file: whoever takes over the thread gets no socket and no file out of its ring.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use executor::AsyncFd;
use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, squeue, types};

use super::MAX_SEGMENTS;
use crate::Buf;

/// Entries of the submission queue; more wait in memory.
const ENTRIES: u32 = 256;

/// Entries of the completion queue, and the most operations that the kernel has at one time. Each has room
/// for its result there, so that no result is ever late or lost.
const RESULTS: u32 = 1024;

/// The pause after which operations that the kernel could not take are handed to it again.
const AGAIN: Duration = Duration::from_millis(10);

/// All operations that a ring may do.
const OPERATIONS: [u8; 6] = [
    opcode::Read::CODE,
    opcode::Readv::CODE,
    opcode::Write::CODE,
    opcode::Writev::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
];

/// IORING_REGISTER_ENABLE_RINGS of linux/io_uring.h.
const ENABLE_RINGS: u8 = 12;

/// The most bytes that one operation moves: its length has 32 bits, and the kernel stops at 2 GiB.
const MAX_LENGTH: usize = 1 << 30;

/// An operation that was or will be handed to the kernel.
struct Op {
    /// Held for the kernel: the buffer, whose segment list it reads too, and the file.
    _buf: Option<Buf>,
    _file: Rc<File>,
    waker: Option<Waker>,
    result: Option<i32>,
    /// True if nobody waits for the result any more.
    abandoned: bool,
}

/// A table of operations by number; boxed, because the kernel holds pointers into them.
#[derive(Default)]
struct Ops {
    slots: Vec<Option<Box<Op>>>,
    free: Vec<usize>,
    in_flight: usize,
}

/// The ring of one thread.
pub struct Ring {
    uring: RefCell<IoUring>,
    ops: RefCell<Ops>,
    /// Entries that wait for room in the submission queue.
    backlog: RefCell<VecDeque<squeue::Entry>>,
    unsubmitted: Cell<bool>,
    /// True while operations that the kernel could not take wait for [`AGAIN`] to be over.
    pausing: Cell<bool>,
    /// The errors with which the next calls of io_uring_enter(2) fail, the last one first.
    #[cfg(test)]
    refusals: RefCell<Vec<libc::c_int>>,
}

/// Makes a ring that takes only [`OPERATIONS`], without flags, and no registration.
///
/// # Errors
/// If the kernel has no io_uring, refuses it, or cannot restrict it (before Linux 5.10).
pub(crate) fn restricted() -> io::Result<IoUring> {
    // Kernels before 5.19 do not know all of these.
    build(true).or_else(|_| build(false))
}

/// Does the work of [`restricted`]; `modern` adds flags that Linux has since 5.18 and 5.19.
fn build(modern: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_r_disabled().setup_cqsize(RESULTS);
    if modern {
        // Cooperative task running saves interrupts of a thread that comes back to the kernel by itself.
        builder.setup_coop_taskrun().setup_submit_all();
    }
    let uring = builder.build(ENTRIES)?;
    let mut allowed = Vec::from(OPERATIONS.map(Restriction::sqe_op));
    // A kernel may leave registrations unrestricted if none is named. The one named here fails on an
    // enabled ring.
    allowed.push(Restriction::register_op(ENABLE_RINGS));
    uring.submitter().register_restrictions(&mut allowed)?;
    uring.submitter().register_enable_rings()?;
    Ok(uring)
}

impl Ring {
    /// Makes a ring served by the executor that runs the caller.
    ///
    /// # Errors
    /// Fails if [`restricted`] does.
    pub fn new() -> io::Result<Rc<Self>> {
        Self::over(restricted()?)
    }

    fn over(uring: IoUring) -> io::Result<Rc<Self>> {
        // SAFETY: the ring is open while this borrows its descriptor.
        let fd = unsafe { BorrowedFd::borrow_raw(uring.as_raw_fd()) }.try_clone_to_owned()?;
        let fd = AsyncFd::for_reading(fd)?;
        let ring = Rc::new(Ring {
            uring: RefCell::new(uring),
            ops: RefCell::default(),
            backlog: RefCell::default(),
            unsubmitted: Cell::new(false),
            pausing: Cell::new(false),
            #[cfg(test)]
            refusals: RefCell::default(),
        });
        let weak = Rc::downgrade(&ring);
        executor::before_wait(move || {
            if let Some(ring) = weak.upgrade() {
                ring.submit();
                ring.reap();
                // Abandoned operations make room as they end but wake nobody, so waiting entries are
                // handed over here.
                ring.submit();
            }
        });
        let weak = Rc::downgrade(&ring);
        executor::spawn(reap_when_ready(fd, weak));
        Ok(ring)
    }

    /// Reads into some of `buf`. Returns the number of bytes read.
    pub async fn read(&self, file: &Rc<File>, offset: u64, buf: Buf) -> io::Result<usize> {
        let fd = types::Fd(file.as_raw_fd());
        self.run(file, Some(buf), |buf| match buf {
            Some([one]) => opcode::Read::new(fd, one.iov_base.cast(), one.iov_len.min(MAX_LENGTH) as u32)
                .offset(offset)
                .build(),
            many => {
                let many = many.unwrap_or(&[]);
                opcode::Readv::new(fd, many.as_ptr(), many.len().min(MAX_SEGMENTS) as u32)
                    .offset(offset)
                    .build()
            }
        })
        .await
    }

    /// Writes some of `buf`. Returns the number of bytes written.
    pub async fn write(&self, file: &Rc<File>, offset: u64, buf: Buf) -> io::Result<usize> {
        let fd = types::Fd(file.as_raw_fd());
        self.run(file, Some(buf), |buf| match buf {
            Some([one]) => opcode::Write::new(fd, one.iov_base.cast(), one.iov_len.min(MAX_LENGTH) as u32)
                .offset(offset)
                .build(),
            many => {
                let many = many.unwrap_or(&[]);
                opcode::Writev::new(fd, many.as_ptr(), many.len().min(MAX_SEGMENTS) as u32)
                    .offset(offset)
                    .build()
            }
        })
        .await
    }

    /// Makes what was written durable (fdatasync).
    pub async fn sync(&self, file: &Rc<File>) -> io::Result<()> {
        let fd = types::Fd(file.as_raw_fd());
        let entry = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build();
        self.run_through(file, entry).await
    }

    /// Does what fallocate(2) does.
    pub async fn fallocate(
        &self,
        file: &Rc<File>,
        mode: libc::c_int,
        offset: u64,
        len: u64,
    ) -> io::Result<()> {
        let fd = types::Fd(file.as_raw_fd());
        let entry = opcode::Fallocate::new(fd, len).offset(offset).mode(mode).build();
        self.run_through(file, entry).await
    }

    /// Runs an operation without a buffer, and repeats it if a signal interrupts it.
    async fn run_through(&self, file: &Rc<File>, entry: squeue::Entry) -> io::Result<()> {
        loop {
            match self.run(file, None, |_| entry.clone()).await {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(drop),
            }
        }
    }

    async fn run(
        &self,
        file: &Rc<File>,
        buf: Option<Buf>,
        entry: impl FnOnce(Option<&[libc::iovec]>) -> squeue::Entry,
    ) -> io::Result<usize> {
        let key = {
            let mut ops = self.ops.borrow_mut();
            let op =
                Box::new(Op { _buf: buf, _file: file.clone(), waker: None, result: None, abandoned: false });
            // The segment list lies in the box, where it stays until the completion.
            let entry = entry(op._buf.as_ref().map(Buf::iovecs));
            let key = ops.free.pop().unwrap_or_else(|| {
                ops.slots.push(None);
                ops.slots.len() - 1
            });
            ops.slots[key] = Some(op);
            ops.in_flight += 1;
            self.backlog.borrow_mut().push_back(entry.user_data(key as u64));
            self.unsubmitted.set(true);
            key
        };
        tracing::trace!(entry = key, "queued for the io_uring");
        let mut waiting = Waiting { ring: self, key, done: false };
        let result = std::future::poll_fn(|cx| {
            let mut ops = self.ops.borrow_mut();
            let Some(op) = ops.slots[key].as_mut() else { return Poll::Ready(-libc::ECANCELED) };
            match op.result {
                Some(result) => {
                    waiting.done = true;
                    ops.slots[key] = None;
                    ops.free.push(key);
                    Poll::Ready(result)
                }
                None => {
                    op.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await;
        tracing::trace!(entry = key, result, "completed by the kernel");
        if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as usize) }
    }

    /// Hands waiting entries to the kernel. It may take only some of them at a time: without SUBMIT_ALL it
    /// stops after an entry that it refuses, and in any case when it is short of memory.
    fn submit(self: &Rc<Self>) {
        if !self.unsubmitted.get() || self.pausing.get() {
            return;
        }
        while self.fill() > 0 {
            match self.enter() {
                Ok(taken) if taken > 0 => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return self.pause(other.err()),
            }
        }
        self.unsubmitted.set(!self.backlog.borrow().is_empty());
    }

    /// Moves waiting entries into the submission queue, as far as there is room for them and for their
    /// results. Returns the number of entries in the queue.
    fn fill(&self) -> usize {
        let mut uring = self.uring.borrow_mut();
        let mut backlog = self.backlog.borrow_mut();
        let results = uring.params().cq_entries() as usize;
        let mut room = results.saturating_sub(self.ops.borrow().in_flight - backlog.len());
        let mut queue = uring.submission();
        while room > 0
            && let Some(entry) = backlog.front()
        {
            // SAFETY: the memory and the descriptor that the entry names live in the table of
            // operations until its completion was seen.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            backlog.pop_front();
            room -= 1;
        }
        queue.len()
    }

    fn enter(&self) -> io::Result<usize> {
        #[cfg(test)]
        if let Some(errno) = self.refusals.borrow_mut().pop() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        self.uring.borrow().submit()
    }

    /// Tries again after a while: the kernel is short of memory (EAGAIN), and may have no operation in
    /// flight whose end would bring this thread back here.
    fn pause(self: &Rc<Self>, why: Option<io::Error>) {
        let why = why.map_or_else(|| "no operation was taken".to_owned(), |e| e.to_string());
        executor::limited!(warn, "io_uring_enter: {why}; trying again in {AGAIN:?}");
        self.pausing.set(true);
        let ring = Rc::downgrade(self);
        executor::spawn(async move {
            executor::sleep(AGAIN).await;
            if let Some(ring) = ring.upgrade() {
                // The next attempt is made when all ready tasks have run.
                ring.pausing.set(false);
            }
        });
    }

    /// Takes completions and wakes the tasks that wait for them.
    fn reap(&self) {
        let mut uring = self.uring.borrow_mut();
        let mut ops = self.ops.borrow_mut();
        for completion in uring.completion() {
            let key = completion.user_data() as usize;
            let Some(Some(op)) = ops.slots.get_mut(key) else { continue };
            op.result = Some(completion.result());
            // The kernel is done with the buffer; the waiting task holds its own reference.
            op._buf = None;
            let (waker, abandoned) = (op.waker.take(), op.abandoned);
            ops.in_flight -= 1;
            if abandoned {
                ops.slots[key] = None;
                ops.free.push(key);
            }
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// Takes completions whenever the ring has any. Waits on a descriptor of its own, so that neither the ring
/// nor this task keeps the other alive.
async fn reap_when_ready(fd: AsyncFd<OwnedFd>, ring: Weak<Ring>) {
    loop {
        fd.readable().await;
        fd.clear_readable();
        let Some(ring) = ring.upgrade() else { return };
        ring.reap();
    }
}

/// Leaves an operation to the kernel if the task that waits for it is dropped.
struct Waiting<'a> {
    ring: &'a Ring,
    key: usize,
    done: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut ops = self.ring.ops.borrow_mut();
        match ops.slots.get_mut(self.key) {
            Some(Some(op)) if op.result.is_none() => op.abandoned = true,
            Some(slot) => {
                *slot = None;
                ops.free.push(self.key);
            }
            None => {}
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let ops = self.ops.get_mut();
        if ops.in_flight > 0 {
            // Leaks the memory: the kernel may still write to it.
            tracing::warn!("{} operations in flight at the end of their ring", ops.in_flight);
            std::mem::forget(std::mem::take(&mut ops.slots));
        }
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
