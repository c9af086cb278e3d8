use executor::Executor;

use super::*;

/// `IORING_OP_*` of linux/io_uring.h through which a thread would reach what is not open yet, or other
/// processes.
const OUTWARD: [(&str, u8); 12] = [
    ("SOCKET", 45),
    ("CONNECT", 16),
    ("ACCEPT", 13),
    ("SENDMSG", 9),
    ("RECVMSG", 10),
    ("SEND", 26),
    ("OPENAT", 18),
    ("OPENAT2", 28),
    ("UNLINKAT", 36),
    ("SPLICE", 30),
    ("URING_CMD", 46),
    ("EPOLL_CTL", 29),
];

/// The length of an entry of the submission queue, in bytes; its first byte is the operation, the second its
/// flags.
const ENTRY: usize = 64;

/// An entry that the library would not build.
fn entry(change: impl FnOnce(&mut [u8; ENTRY])) -> squeue::Entry {
    // SAFETY: an entry is ENTRY bytes of plain data, as the library asserts for `io_uring_sqe`.
    let mut bytes: [u8; ENTRY] = unsafe { std::mem::transmute(opcode::Nop::new().build()) };
    change(&mut bytes);
    // SAFETY: as above; the kernel judges what it says.
    unsafe { std::mem::transmute(bytes) }
}

/// Runs `work` with a ring and a file of 4 KiB of sevens, on an executor; fails if that takes 30 seconds.
fn with_ring<F: Future<Output = ()> + 'static>(
    modern: bool,
    work: impl FnOnce(Rc<Ring>, Rc<File>) -> F + 'static,
) {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, &[7; 4096]).unwrap();
    Executor::new().unwrap().block_on(async move {
        let Ok(uring) = build(modern) else {
            assert!(modern, "this host grants no io_uring: allow it to run these tests");
            return eprintln!("not tried: this kernel has no SUBMIT_ALL (Linux 5.18)");
        };
        let work = work(Ring::over(uring).unwrap(), Rc::new(file));
        executor::timeout(Duration::from_secs(30), work).await.expect("an operation never ended");
    });
}

async fn reads(ring: &Ring, file: &Rc<File>) -> io::Result<()> {
    let buf = Buf::new(4096);
    assert_eq!(ring.read(file, 0, buf.clone()).await?, 4096);
    assert_eq!(buf.to_vec(), [7; 4096]);
    Ok(())
}

#[test]
fn a_ring_does_what_it_is_for_and_nothing_else() {
    for modern in [true, false] {
        with_ring(modern, |ring, file| async move {
            for (name, code) in OUTWARD {
                let refused = ring.run(&file, None, |_| entry(|bytes| bytes[0] = code)).await;
                // A kernel that does not know the operation refuses it too.
                let errno = refused.unwrap_err().raw_os_error();
                assert!(matches!(errno, Some(libc::EACCES | libc::EINVAL)), "{name}: {errno:?}");
            }
            for code in (0..=u8::MAX).filter(|code| !OPERATIONS.contains(code)) {
                let refused = ring.run(&file, None, |_| entry(|bytes| bytes[0] = code)).await;
                assert!(refused.is_err(), "operation {code}");
            }
            // Flags link entries, take descriptors from tables, or run them elsewhere.
            let fd = types::Fd(file.as_raw_fd());
            for flag in [squeue::Flags::ASYNC, squeue::Flags::IO_LINK, squeue::Flags::FIXED_FILE] {
                let flagged = opcode::Fsync::new(fd).build().flags(flag);
                let refused = ring.run(&file, None, |_| flagged).await.unwrap_err();
                assert_eq!(refused.raw_os_error(), Some(libc::EACCES), "{flag:?}");
            }
            let registered = ring.uring.borrow().submitter().register_files(&[0]).unwrap_err();
            assert_eq!(registered.raw_os_error(), Some(libc::EACCES), "register");
            reads(&ring, &file).await.unwrap();
            ring.sync(&file).await.unwrap();
            ring.fallocate(&file, 0, 0, 8192).await.unwrap();
        });
    }
}

#[test]
fn an_entry_that_the_kernel_refuses_holds_no_other_up() {
    // Without SUBMIT_ALL the kernel stops after each of them.
    for modern in [true, false] {
        with_ring(modern, |ring, file| async move {
            let refused =
                |_: Option<&[libc::iovec]>| opcode::Readv::new(types::Fd(0), std::ptr::null(), 1).build();
            let bad = || async {
                let errno = ring.run(&file, None, refused).await.unwrap_err().raw_os_error();
                assert_eq!(errno, Some(libc::EFAULT));
            };
            let good = || async { reads(&ring, &file).await.unwrap() };
            futures_util::future::join5(bad(), good(), bad(), bad(), good()).await;
        });
    }
}

#[test]
fn operations_wait_until_the_kernel_has_memory() {
    for errno in [libc::EAGAIN, libc::ENOMEM, libc::EBUSY, libc::EINTR] {
        with_ring(true, move |ring, file| async move {
            // Nothing is in flight whose end would make the ring try again.
            *ring.refusals.borrow_mut() = vec![errno; 3];
            reads(&ring, &file).await.unwrap();
            assert!(ring.refusals.borrow().is_empty());
            // Something is in flight, and several operations are behind it.
            let all = (0..100).map(|_| reads(&ring, &file));
            *ring.refusals.borrow_mut() = vec![errno; 2];
            futures_util::future::try_join_all(all).await.unwrap();
        });
    }
}

#[test]
fn the_kernel_has_no_more_than_it_has_room_for_results_of() {
    with_ring(true, |ring, file| async move {
        let results = ring.uring.borrow().params().cq_entries() as usize;
        let count = 5 * results;
        // These are begun and dropped: their results make room and wake nobody.
        for _ in 0..count {
            let mut read = Box::pin(ring.read(&file, 0, Buf::new(512)));
            let begun = std::future::poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await;
            assert!(begun.is_pending());
        }
        assert_eq!(ring.backlog.borrow().len(), count);
        let all = (0..count).map(|_| reads(&ring, &file));
        futures_util::future::try_join_all(all).await.unwrap();
        assert!(ring.ops.borrow().slots.len() <= 2 * count);
        assert!(!ring.uring.borrow_mut().submission().cq_overflow());
    });
}
