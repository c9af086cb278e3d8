//! Memory that the kernel, a guest and several tasks may use at the same time.
//!
//! A [`Buf`] is a list of segments with shared ownership: an operation in flight holds a clone, so the
//! memory outlives the task that started it. No `&[u8]` into shared memory ever exists; bytes are copied
//! in and out, and a slice is handed out only if nobody else holds the memory ([`Buf::bytes_mut`]).
//!
//! # Contents, in reading order
//!
//! There is only this file: [`Buf`], then [`Pool`], which keeps large buffers to use them again, then
//! [`is_zero`].
//!
//! # Example
//!
//! ```
//! use buf::{ALIGNMENT, Buf};
//!
//! let mut buf = Buf::new(2 * ALIGNMENT);
//! assert!(buf.is_aligned(ALIGNMENT) && buf.is_zero());
//! // A slice is the same memory, not a copy.
//! buf.slice(ALIGNMENT..ALIGNMENT + 4).copy_from(b"data");
//!
//! // While an operation in flight holds a clone, nobody gets a slice of bytes.
//! let in_flight = buf.clone();
//! assert!(buf.bytes_mut().is_none());
//! drop(in_flight);
//! if let Some(bytes) = buf.bytes_mut() {
//!     assert_eq!(bytes[ALIGNMENT..][..4], *b"data");
//!     bytes[0] = b'>';
//! }
//!
//! // One request with two segments for the kernel.
//! let both = Buf::concat(vec![buf.slice(0..1), buf.slice(ALIGNMENT..ALIGNMENT + 4)]);
//! assert_eq!(both.to_vec(), b">data");
//! assert_eq!(both.iovecs().len(), 2);
//! ```
//!
//! # Tests
//!
//! `src/tests.rs`.

use std::alloc::Layout;
use std::any::Any;
use std::ops::Range;
use std::ptr::NonNull;
use std::rc::Rc;

use smallvec::SmallVec;

/// Alignment of owned buffers: enough for O_DIRECT on every block device in use.
pub const ALIGNMENT: usize = 4096;

/// One piece of contiguous memory, laid out like the kernel's `struct iovec`.
type Segment = libc::iovec;

/// Page-aligned memory of our own.
struct Owned {
    start: NonNull<u8>,
    layout: Layout,
}

impl Owned {
    fn new(len: usize) -> Self {
        let layout = Layout::from_size_align(len.max(1), ALIGNMENT).expect("buffer lengths are bounded");
        // SAFETY: the layout's size is at least 1.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        match NonNull::new(start) {
            Some(start) => Owned { start, layout },
            None => std::alloc::handle_alloc_error(layout),
        }
    }
}

/// The size of a huge page, in bytes, on every machine that has them by default.
const HUGE: usize = 2 << 20;

impl Owned {
    /// Allocates huge pages if the kernel has some: it then has fewer pages to look up when it passes
    /// the memory to a device.
    fn huge(len: usize) -> Self {
        let layout = Layout::from_size_align(len.next_multiple_of(HUGE), HUGE);
        let layout = layout.expect("buffer lengths are bounded");
        // SAFETY: the layout's size is not 0, since `len` is not.
        let start = unsafe { std::alloc::alloc(layout) };
        let Some(start) = NonNull::new(start) else { std::alloc::handle_alloc_error(layout) };
        // SAFETY: the range was just allocated. The advice may be refused, and changes no content.
        unsafe { libc::madvise(start.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE) };
        // SAFETY: as above; from here on the bytes are initialised.
        unsafe { std::ptr::write_bytes(start.as_ptr(), 0, layout.size()) };
        Owned { start, layout }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` or `huge` with this layout, and freed once.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), self.layout) }
    }
}

#[derive(Clone)]
enum Keep {
    Owned(Rc<Owned>),
    Foreign(#[allow(dead_code, reason = "held for its destructor only")] Rc<dyn Any>),
}

/// A list of memory segments that stays alive while any clone of it exists.
#[derive(Clone)]
pub struct Buf {
    segments: SmallVec<[Segment; 4]>,
    len: usize,
    keep: Keep,
}

impl Buf {
    /// `len` zero bytes, aligned to [`ALIGNMENT`].
    pub fn new(len: usize) -> Self {
        let owned = Owned::new(len);
        let mut segments = SmallVec::new();
        if len > 0 {
            segments.push(Segment { iov_base: owned.start.as_ptr().cast(), iov_len: len });
        }
        Buf { segments, len, keep: Keep::Owned(Rc::new(owned)) }
    }

    /// A copy of `bytes`.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let buf = Self::new(bytes.len());
        buf.copy_from(bytes);
        buf
    }

    /// Memory of another owner, such as a guest's; it stays valid while `keep` lives.
    ///
    /// # Safety
    /// Each segment must be valid for reads and writes while `keep` lives. Others may change the
    /// bytes at any time.
    pub unsafe fn foreign(
        segments: impl IntoIterator<Item = (NonNull<u8>, usize)>,
        keep: Rc<dyn Any>,
    ) -> Self {
        let mut len = 0;
        let segments = segments
            .into_iter()
            .filter(|(_, n)| *n > 0)
            .map(|(start, n)| {
                len += n;
                Segment { iov_base: start.as_ptr().cast(), iov_len: n }
            })
            .collect();
        Buf { segments, len, keep: Keep::Foreign(keep) }
    }

    /// One buffer made of several, in order, without a copy.
    pub fn concat(parts: Vec<Buf>) -> Self {
        let segments = parts.iter().flat_map(|part| part.segments.iter().copied()).collect();
        let len = parts.iter().map(Buf::len).sum();
        Buf { segments, len, keep: Keep::Foreign(Rc::new(parts)) }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns true if there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part `range` of the same memory.
    ///
    /// # Panics
    /// If the range is not inside the buffer.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "slice outside of a buffer");
        let mut segments = SmallVec::new();
        let mut skip = range.start;
        let mut left = range.end - range.start;
        for segment in &self.segments {
            if left == 0 {
                break;
            }
            if skip >= segment.iov_len {
                skip -= segment.iov_len;
                continue;
            }
            let n = (segment.iov_len - skip).min(left);
            // Inside of the segment, so the address does not wrap.
            let start = segment.iov_base.cast::<u8>().wrapping_add(skip);
            segments.push(Segment { iov_base: start.cast(), iov_len: n });
            skip = 0;
            left -= n;
        }
        Buf { segments, len: range.end - range.start, keep: self.keep.clone() }
    }

    /// The segments, for a system call. They are valid while a clone of this buffer lives.
    pub fn iovecs(&self) -> &[libc::iovec] {
        &self.segments
    }

    /// Returns true if every segment's address and length is a multiple of `alignment`.
    pub fn is_aligned(&self, alignment: usize) -> bool {
        self.segments.iter().all(|s| (s.iov_base as usize | s.iov_len).is_multiple_of(alignment))
    }

    /// Copies out the first `into.len()` bytes.
    ///
    /// # Panics
    /// If the buffer is shorter.
    pub fn copy_to(&self, mut into: &mut [u8]) {
        assert!(into.len() <= self.len);
        for segment in &self.segments {
            let n = segment.iov_len.min(into.len());
            // SAFETY: `keep` keeps the segment alive, `into` is a separate exclusive borrow, and bytes
            // that others change meanwhile are copied in whatever state they are.
            unsafe { std::ptr::copy_nonoverlapping(segment.iov_base.cast(), into.as_mut_ptr(), n) };
            into = &mut into[n..];
        }
    }

    /// Copies `from` to the start of this buffer.
    ///
    /// # Panics
    /// If the buffer is shorter.
    pub fn copy_from(&self, mut from: &[u8]) {
        assert!(from.len() <= self.len);
        for segment in &self.segments {
            let n = segment.iov_len.min(from.len());
            // SAFETY: as in `copy_to`; no reference to the segment's bytes exists.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), segment.iov_base.cast(), n) };
            from = &from[n..];
        }
    }

    /// Copies `from` into this buffer, from byte `at` on.
    ///
    /// # Panics
    /// If the buffer ends before that.
    pub fn write_at(&self, mut at: usize, mut from: &[u8]) {
        assert!(at <= self.len && from.len() <= self.len - at);
        for segment in &self.segments {
            if at >= segment.iov_len {
                at -= segment.iov_len;
                continue;
            }
            let n = (segment.iov_len - at).min(from.len());
            let into = segment.iov_base.cast::<u8>().wrapping_add(at);
            // SAFETY: `at` and `n` are inside of the segment, which `keep` keeps alive; as in `copy_from`.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into, n) };
            (at, from) = (0, &from[n..]);
            if from.is_empty() {
                return;
            }
        }
    }

    /// Copies out `into.len()` bytes, from byte `at` on.
    ///
    /// # Panics
    /// If the buffer ends before that.
    pub fn read_at(&self, mut at: usize, mut into: &mut [u8]) {
        assert!(at <= self.len && into.len() <= self.len - at);
        for segment in &self.segments {
            if at >= segment.iov_len {
                at -= segment.iov_len;
                continue;
            }
            let n = (segment.iov_len - at).min(into.len());
            let from = segment.iov_base.cast::<u8>().wrapping_add(at);
            // SAFETY: `at` and `n` are inside of the segment, which `keep` keeps alive; as in `copy_to`.
            unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), n) };
            (at, into) = (0, &mut into[n..]);
            if into.is_empty() {
                return;
            }
        }
    }

    /// Copies the whole of `from`, which may be shorter, to the start of this buffer.
    ///
    /// # Panics
    /// If this buffer is shorter.
    pub fn copy_from_buf(&self, from: &Buf) {
        assert!(from.len <= self.len);
        let mut at = 0;
        for segment in &from.segments {
            let into = self.slice(at..at + segment.iov_len);
            let mut source = segment.iov_base.cast::<u8>();
            for target in &into.segments {
                // SAFETY: their `keep` keeps both segments alive; `copy` allows an overlap, which a
                // guest can cause by naming one page twice.
                unsafe { std::ptr::copy(source, target.iov_base.cast(), target.iov_len) };
                source = source.wrapping_add(target.iov_len);
            }
            at += segment.iov_len;
        }
    }

    /// Sets every byte to zero.
    pub fn zero(&self) {
        for segment in &self.segments {
            // SAFETY: `keep` keeps the segment alive, and no reference to its bytes exists.
            unsafe { std::ptr::write_bytes(segment.iov_base.cast::<u8>(), 0, segment.iov_len) };
        }
    }

    /// A copy of the bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.copy_to(&mut bytes);
        bytes
    }

    /// The bytes themselves, if this is the only handle to owned memory, so that no operation in flight
    /// holds a clone.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        let Keep::Owned(owned) = &mut self.keep else { return None };
        Rc::get_mut(owned)?;
        let Some(segment) = self.segments.first() else { return Some(&mut []) };
        // SAFETY: an owned buffer is one segment inside its allocation, and the only handle to that
        // allocation is borrowed mutably for as long as the slice lives.
        Some(unsafe { std::slice::from_raw_parts_mut(segment.iov_base.cast(), segment.iov_len) })
    }

    /// Returns true if this is the only handle to owned memory and all its bytes are zero. Shared memory
    /// is never examined: its content could change right after.
    pub fn is_zero(&mut self) -> bool {
        self.bytes_mut().is_some_and(|bytes| is_zero(bytes))
    }
}

/// Large buffers that are reused: clearing and faulting in fresh ones would cost as much as the copy
/// that they are used for.
#[derive(Default)]
pub struct Pool {
    free: std::cell::RefCell<Vec<Buf>>,
}

impl Pool {
    /// The largest number of free buffers that are kept.
    const KEPT: usize = 8;
    /// The largest buffer that is kept, in bytes.
    const LARGEST: usize = 4 << 20;

    /// A buffer of `len` bytes, with arbitrary content.
    pub fn get(&self, len: usize) -> Buf {
        let mut free = self.free.borrow_mut();
        match free.iter().position(|buf| buf.len() >= len) {
            Some(at) => {
                let mut buf = free.swap_remove(at);
                // An owned buffer is one segment, so its front part is one too.
                buf.len = len;
                if let Some(segment) = buf.segments.first_mut() {
                    segment.iov_len = len;
                }
                buf
            }
            None if len >= HUGE / 4 => {
                let owned = Owned::huge(len);
                let mut segments = SmallVec::new();
                segments.push(Segment { iov_base: owned.start.as_ptr().cast(), iov_len: len });
                Buf { segments, len, keep: Keep::Owned(Rc::new(owned)) }
            }
            None => Buf::new(len),
        }
    }

    /// Takes a buffer back. One that is still in use elsewhere is not kept; its last user frees it.
    pub fn put(&self, mut buf: Buf) {
        let mut free = self.free.borrow_mut();
        if free.len() >= Self::KEPT || buf.bytes_mut().is_none() {
            return;
        }
        let Keep::Owned(owned) = &buf.keep else { return };
        let len = owned.layout.size();
        if len > Self::LARGEST || buf.is_empty() {
            return;
        }
        let iov_base = owned.start.as_ptr().cast();
        buf.segments.clear();
        buf.segments.push(Segment { iov_base, iov_len: len });
        buf.len = len;
        free.push(buf);
    }
}

/// Returns true if all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // SAFETY: any bytes are a valid u128.
    let (head, body, tail) = unsafe { bytes.align_to::<u128>() };
    head.iter().chain(tail).all(|b| *b == 0)
        && body.chunks(16).all(|chunk| chunk.iter().fold(0, |all, word| all | word) == 0)
}

#[cfg(test)]
mod tests;
