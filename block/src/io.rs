//! File operations as futures: over io_uring if the kernel grants it, otherwise on worker threads.

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use crate::Buf;

mod ring;

use ring::Ring;

/// The way in which file operations are handed to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Aio {
    /// io_uring, or threads if it is refused.
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

/// Checks that this kernel grants a ring as an [`Engine`] uses it.
///
/// # Errors
/// Fails with the kernel's error if a restricted ring is refused.
pub(crate) fn ring_is_offered() -> io::Result<()> {
    ring::restricted().map(drop)
}

/// The file and the buffer of an operation, on their way to a worker thread and back. If they do not come
/// back they are never freed: the executor has ended, and nobody may touch their reference counts any
/// more.
struct Crossing(ManuallyDrop<(Rc<File>, Option<Buf>)>);

// SAFETY: only its reference counts keep the content from being `Send`. The worker neither clones nor
// drops it, and it is taken apart only back on the owning thread.
unsafe impl Send for Crossing {}

impl Crossing {
    fn fd(&self) -> libc::c_int {
        self.0.0.as_raw_fd()
    }

    fn iovecs(&self) -> &[libc::iovec] {
        let iovecs = self.0.1.as_ref().map_or(&[][..], Buf::iovecs);
        &iovecs[..iovecs.len().min(MAX_SEGMENTS)]
    }
}

impl Engine {
    /// Makes the engine for the executor that runs the caller. Uses threads if io_uring is refused.
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

    /// Reads into some of `buf`. Returns the number of bytes read, 0 at the file's end.
    pub(crate) async fn read(&self, file: &Rc<File>, offset: u64, buf: &Buf) -> io::Result<usize> {
        match self {
            Engine::Ring(ring) => ring.read(file, offset, buf.clone()).await,
            Engine::Threads => {
                on_worker(file, Some(buf), move |with| {
                    let (fd, iovecs) = (with.fd(), with.iovecs());
                    // SAFETY: the segments are alive while `with` is.
                    unsafe { libc::preadv(fd, iovecs.as_ptr(), iovecs.len() as libc::c_int, offset as i64) }
                })
                .await
            }
        }
    }

    /// Writes some of `buf`. Returns the number of bytes written.
    pub(crate) async fn write(&self, file: &Rc<File>, offset: u64, buf: &Buf) -> io::Result<usize> {
        match self {
            Engine::Ring(ring) => ring.write(file, offset, buf.clone()).await,
            Engine::Threads => {
                on_worker(file, Some(buf), move |with| {
                    let (fd, iovecs) = (with.fd(), with.iovecs());
                    // SAFETY: the segments are alive while `with` is.
                    unsafe { libc::pwritev(fd, iovecs.as_ptr(), iovecs.len() as libc::c_int, offset as i64) }
                })
                .await
            }
        }
    }

    /// Makes what was written durable.
    pub(crate) async fn sync(&self, file: &Rc<File>) -> io::Result<()> {
        match self {
            Engine::Ring(ring) => ring.sync(file).await,
            Engine::Threads => {
                // SAFETY: a system call on an open descriptor, with no memory involved.
                on_worker(file, None, |with| unsafe { libc::fdatasync(with.fd()) } as isize).await.map(drop)
            }
        }
    }

    /// Does what fallocate(2) does.
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
                let (offset, len) = (offset as i64, len as i64);
                // SAFETY: a system call on an open descriptor, with no memory involved.
                let call = move |with: &Crossing| unsafe { libc::fallocate(with.fd(), mode, offset, len) };
                on_worker(file, None, move |with| call(with) as isize).await.map(drop)
            }
        }
    }
}

/// Makes a system call on a worker, and repeats it if a signal interrupts it.
async fn on_worker(
    file: &Rc<File>,
    buf: Option<&Buf>,
    call: impl Fn(&Crossing) -> isize + Send + 'static,
) -> io::Result<usize> {
    let crossing = Crossing(ManuallyDrop::new((file.clone(), buf.cloned())));
    // A task of its own, so that the buffer comes back to this thread even if the caller is dropped half
    // way.
    let task = executor::spawn(async move {
        let (crossing, result) = executor::unblock(move || {
            let crossing = crossing;
            let result = loop {
                let done = call(&crossing);
                match usize::try_from(done) {
                    Ok(done) => break Ok(done),
                    Err(_) => match io::Error::last_os_error() {
                        e if e.kind() == io::ErrorKind::Interrupted => {}
                        e => break Err(e),
                    },
                }
            };
            (crossing, result)
        })
        .await;
        drop(ManuallyDrop::into_inner(crossing.0));
        result
    });
    task.await.unwrap_or_else(|| Err(io::Error::other("the operation was cancelled")))
}
