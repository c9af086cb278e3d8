//! System calls on files, awaited: io_uring where the kernel grants it, else worker threads.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use crate::Buf;

mod ring;

use ring::Ring;

/// How file operations are handed to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Aio {
    /// io_uring, or threads where it is refused.
    #[default]
    IoUring,
    /// Worker threads.
    Threads,
}

/// The I/O engine of one thread.
#[derive(Clone)]
pub enum Engine {
    /// One ring.
    Ring(Rc<Ring>),
    /// Worker threads.
    Threads,
}

/// The most segments that one system call takes (IOV_MAX).
const MAX_SEGMENTS: usize = 1024;

/// A buffer that crosses to a worker thread.
struct Crossing(Buf);

// SAFETY: a `Buf` is not `Send` for the sake of its reference count alone. `Engine::on_worker` keeps a
// clone on the owning thread until the worker is done with this one, and the worker neither clones nor
// drops it: it comes back in the answer.
unsafe impl Send for Crossing {}

/// An operation of the thread engine.
#[derive(Clone, Copy)]
enum Op {
    Read,
    Write,
}

impl Engine {
    /// The engine for the executor that runs the caller.
    pub fn new(aio: Aio) -> Self {
        if aio == Aio::Threads {
            return Engine::Threads;
        }
        match Ring::new() {
            Ok(ring) => Engine::Ring(ring),
            Err(e) => {
                tracing::warn!("io_uring is refused ({e}); using threads");
                Engine::Threads
            }
        }
    }

    /// Reads some of `buf`; 0 at the file's end.
    pub(crate) async fn read(&self, file: &Rc<File>, offset: u64, buf: &Buf) -> io::Result<usize> {
        match self {
            Engine::Ring(ring) => ring.read(file, offset, buf.clone()).await,
            Engine::Threads => on_worker(Op::Read, file, offset, buf).await,
        }
    }

    /// Writes some of `buf`.
    pub(crate) async fn write(&self, file: &Rc<File>, offset: u64, buf: &Buf) -> io::Result<usize> {
        match self {
            Engine::Ring(ring) => ring.write(file, offset, buf.clone()).await,
            Engine::Threads => on_worker(Op::Write, file, offset, buf).await,
        }
    }

    /// Makes what was written durable.
    pub(crate) async fn sync(&self, file: &Rc<File>) -> io::Result<()> {
        match self {
            Engine::Ring(ring) => ring.sync(file).await,
            Engine::Threads => {
                let file = file.try_clone()?;
                executor::unblock(move || file.sync_data()).await
            }
        }
    }

    /// fallocate(2).
    pub(crate) async fn fallocate(
        &self,
        file: &Rc<File>,
        mode: libc::c_int,
        offset: u64,
        len: u64,
    ) -> io::Result<()> {
        match self {
            Engine::Ring(ring) => ring.fallocate(file, mode, offset, len).await,
            Engine::Threads => {
                let file = file.try_clone()?;
                executor::unblock(move || {
                    // SAFETY: a system call on an open descriptor, with no memory involved.
                    let done = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, len as i64) };
                    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
                })
                .await
            }
        }
    }
}

async fn on_worker(op: Op, file: &Rc<File>, offset: u64, buf: &Buf) -> io::Result<usize> {
    let worker_file = file.try_clone()?;
    let crossing = Crossing(buf.clone());
    // The task that awaits is detached from the caller: dropped half way, it still gets the buffer
    // back on this thread.
    let task = executor::spawn(async move {
        let (crossing, result) = executor::unblock(move || {
            let crossing = crossing;
            let iovecs = &crossing.0.iovecs()[..crossing.0.iovecs().len().min(MAX_SEGMENTS)];
            let (fd, count) = (worker_file.as_raw_fd(), iovecs.len() as libc::c_int);
            // SAFETY: the segments are alive while `crossing` is, which is until the answer arrives.
            let done = unsafe {
                match op {
                    Op::Read => libc::preadv(fd, iovecs.as_ptr(), count, offset as i64),
                    Op::Write => libc::pwritev(fd, iovecs.as_ptr(), count, offset as i64),
                }
            };
            let result = if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as usize) };
            (crossing, result)
        })
        .await;
        drop(crossing);
        result
    });
    task.await.unwrap_or_else(|| Err(io::Error::other("the operation was cancelled")))
}
