//! One io_uring for one thread.
//!
//! Submissions are collected while tasks run and handed over in one system call before the thread
//! waits; completions wake their tasks. What the kernel may still touch (buffer, descriptor) lives in
//! the ring's table until the completion, whatever happens to the task that asked.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

use executor::AsyncFd;
use io_uring::{IoUring, opcode, squeue, types};

use super::MAX_SEGMENTS;
use crate::Buf;

/// Entries of the submission queue; more wait in memory.
const ENTRIES: u32 = 256;

/// The most that one operation moves: its length has 32 bits, and the kernel stops at 2 GiB.
const MAX_LENGTH: usize = 1 << 30;

/// An operation that the kernel has, or will have.
struct Op {
    /// Held for the kernel: the buffer, whose segment list it reads too, and the file.
    _buf: Option<Buf>,
    _file: Rc<File>,
    waker: Option<Waker>,
    result: Option<i32>,
    /// Nobody waits for the result any more.
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
    /// Entries that found the submission queue full.
    backlog: RefCell<VecDeque<squeue::Entry>>,
    unsubmitted: Cell<bool>,
}

impl Ring {
    /// A ring served by the executor that runs the caller.
    ///
    /// # Errors
    /// Where the kernel has no io_uring, or refuses it.
    pub fn new() -> io::Result<Rc<Self>> {
        // Cooperative task running saves interrupts of a thread that comes back to the kernel by
        // itself; kernels before 5.19 do not know it.
        let uring = IoUring::builder()
            .setup_coop_taskrun()
            .build(ENTRIES)
            .or_else(|_| IoUring::builder().build(ENTRIES))?;
        // SAFETY: the ring is open while this borrows its descriptor.
        let fd = unsafe { BorrowedFd::borrow_raw(uring.as_raw_fd()) }.try_clone_to_owned()?;
        let fd = AsyncFd::for_reading(fd)?;
        let ring = Rc::new(Ring {
            uring: RefCell::new(uring),
            ops: RefCell::default(),
            backlog: RefCell::default(),
            unsubmitted: Cell::new(false),
        });
        let weak = Rc::downgrade(&ring);
        executor::before_wait(move || {
            if let Some(ring) = weak.upgrade() {
                ring.submit();
                ring.reap();
            }
        });
        let weak = Rc::downgrade(&ring);
        executor::spawn(reap_when_ready(fd, weak));
        Ok(ring)
    }

    /// Reads some of `buf`.
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

    /// Writes some of `buf`.
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

    /// fdatasync(2).
    pub async fn sync(&self, file: &Rc<File>) -> io::Result<()> {
        let fd = types::Fd(file.as_raw_fd());
        let entry = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build();
        self.run_through(file, entry).await
    }

    /// fallocate(2).
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

    /// Runs an operation without a buffer, again where a signal interrupted it.
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
        if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as usize) }
    }

    /// Moves waiting entries into the queue and hands them to the kernel.
    fn submit(&self) {
        if !self.unsubmitted.get() {
            return;
        }
        loop {
            let mut uring = self.uring.borrow_mut();
            {
                let mut backlog = self.backlog.borrow_mut();
                let mut queue = uring.submission();
                while let Some(entry) = backlog.front() {
                    // SAFETY: the memory and the descriptor that the entry names live in the table of
                    // operations until its completion was seen.
                    if unsafe { queue.push(entry) }.is_err() {
                        break;
                    }
                    backlog.pop_front();
                }
            }
            let submitted = uring.submit();
            drop(uring);
            match submitted {
                Ok(_) if self.backlog.borrow().is_empty() => {
                    self.unsubmitted.set(false);
                    return;
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The completion queue is full, or the kernel short of memory: what is complete has to
                // be taken first. Where that woke nobody, the next completion brings us back here.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN)) => {
                    self.reap();
                    return;
                }
                Err(e) => {
                    executor::limited!(error, "io_uring_enter: {e}");
                    return;
                }
            }
        }
    }

    /// Takes completions and wakes those who wait for them.
    fn reap(&self) {
        loop {
            self.take_completions();
            let mut uring = self.uring.borrow_mut();
            // What found the completion queue full comes only when asked for: no event tells of it.
            if !uring.submission().cq_overflow() || uring.submit().is_err() {
                return;
            }
        }
    }

    fn take_completions(&self) {
        let mut uring = self.uring.borrow_mut();
        let mut ops = self.ops.borrow_mut();
        for completion in uring.completion() {
            let key = completion.user_data() as usize;
            let Some(Some(op)) = ops.slots.get_mut(key) else { continue };
            op.result = Some(completion.result());
            // The kernel is done with them; the waiting task holds its own.
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

/// Waits on a descriptor of its own, so that neither the ring nor this task holds the other alive.
async fn reap_when_ready(fd: AsyncFd<OwnedFd>, ring: Weak<Ring>) {
    loop {
        fd.readable().await;
        fd.clear_readable();
        let Some(ring) = ring.upgrade() else { return };
        ring.reap();
    }
}

/// Leaves an operation to the kernel when the task that asked is dropped.
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
            // Freeing what the kernel may write to would be worse than keeping it.
            tracing::warn!("{} operations in flight at the end of their ring", ops.in_flight);
            std::mem::forget(std::mem::take(&mut ops.slots));
        }
    }
}
