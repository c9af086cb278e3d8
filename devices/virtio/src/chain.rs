//! Descriptor chains: from a hostile driver's tables to checked pieces of guest memory.
//!
//! `virtio-queue` has an iterator over a chain, but it ends silently where a chain is malformed, and a cut
//! chain must never pass for a complete request. So this walk is our own: it reads each descriptor once,
//! checks it, and translates its address once.

use std::any::Any;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use buf::Buf;
use smallvec::SmallVec;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// A ring or chain that no driver may build: the device needs a reset. The text is for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// A guest's memory, which stays mapped while any buffer into it exists.
#[derive(Clone)]
pub(crate) struct Memory {
    map: Arc<GuestMemoryMmap>,
    keep: Rc<dyn Any>,
}

impl Memory {
    pub(crate) fn new(map: Arc<GuestMemoryMmap>) -> Self {
        Memory { keep: Rc::new(map.clone()), map }
    }
}

impl Deref for Memory {
    type Target = GuestMemoryMmap;

    fn deref(&self) -> &GuestMemoryMmap {
        &self.map
    }
}

/// Pieces of one guest's memory, in the order of the chain. Most chains have few.
type Segments = SmallVec<[(NonNull<u8>, usize); 4]>;

/// The content of a whole, well-formed chain, however the driver cut it into descriptors (virtio 1.2,
/// 2.7.4).
pub(crate) struct Content {
    /// The bytes that the device may read: at most 2^32 together with the writable ones.
    pub(crate) readable: Buf,
    /// The bytes that the device may write.
    pub(crate) writable: Buf,
    /// Number of descriptors of the queue's table that it takes. Those of an indirect table do not count.
    pub(crate) descriptors: u16,
}

/// Walks the chain that starts at descriptor `head`. `indirect` is true if VIRTIO_RING_F_INDIRECT_DESC was
/// negotiated.
///
/// Reads at most as many descriptors as the longest queue has, and follows at most one table, whatever the
/// driver wrote.
pub(crate) fn read(memory: &Memory, queue: &Queue, head: u16, indirect: bool) -> Result<Content, Malformed> {
    let mut walk =
        Walk { memory, readable: Segments::new(), writable: Segments::new(), total: 0, descriptors: 0 };
    let mut table = GuestAddress(queue.desc_table());
    let mut entries = u32::from(queue.size());
    let mut in_indirect = false;
    let mut index = head;
    // A driver must not make a chain longer than its queue, which is at most as long as ours (2.7.5.3.1).
    // Some drivers count only the direct descriptors, so the limit is the longest queue, not this one.
    let mut left = queue.max_size();
    loop {
        if u32::from(index) >= entries {
            return Err(Malformed("a descriptor index is out of range"));
        }
        let descriptor: Descriptor = table
            .checked_add(u64::from(index) * size_of::<Descriptor>() as u64)
            .and_then(|address| memory.read_obj(address).ok())
            .ok_or(Malformed("a descriptor table lies outside of guest memory"))?;
        // Cannot overflow: at most as many as the longest queue has, and one that refers to a table.
        walk.descriptors += u16::from(!in_indirect);
        if descriptor.refers_to_indirect_table() {
            // 2.7.5.3.1: none without the feature, none in another table, none with NEXT. WRITE must be
            // ignored (2.7.5.3.2).
            if !indirect || in_indirect || descriptor.has_next() {
                return Err(Malformed("an indirect descriptor where none may be"));
            }
            if descriptor.len() == 0 || !descriptor.len().is_multiple_of(size_of::<Descriptor>() as u32) {
                return Err(Malformed("an indirect table of a bad length"));
            }
            in_indirect = true;
            table = descriptor.addr();
            entries = descriptor.len() / size_of::<Descriptor>() as u32;
            index = 0;
            continue;
        }
        if left == 0 {
            return Err(Malformed("a descriptor chain is too long or a loop"));
        }
        left -= 1;
        walk.add(&descriptor)?;
        if !descriptor.has_next() {
            return Ok(walk.end());
        }
        index = descriptor.next();
    }
}

struct Walk<'a> {
    memory: &'a Memory,
    readable: Segments,
    writable: Segments,
    total: u64,
    descriptors: u16,
}

impl Walk<'_> {
    fn add(&mut self, descriptor: &Descriptor) -> Result<(), Malformed> {
        let len = descriptor.len() as usize;
        if len == 0 {
            return Err(Malformed("a descriptor of zero bytes"));
        }
        self.total += len as u64;
        if self.total > 1 << 32 {
            return Err(Malformed("a chain of more than 2^32 bytes")); // 2.7.5.2
        }
        let segments = match descriptor.is_write_only() {
            true => &mut self.writable,
            false if self.writable.is_empty() => &mut self.readable,
            false => return Err(Malformed("a readable descriptor behind a writable one")), // 2.7.4.2
        };
        for slice in self.memory.get_slices(descriptor.addr(), len) {
            let slice = slice.map_err(|_| Malformed("a descriptor points outside of guest memory"))?;
            let start = NonNull::new(slice.ptr_guard_mut().as_ptr());
            segments.push((start.ok_or(Malformed("a descriptor has no memory behind it"))?, slice.len()));
        }
        Ok(())
    }

    fn end(self) -> Content {
        let keep = &self.memory.keep;
        // SAFETY: `add` took each segment from the mapping that `keep` holds, and checked that it lies
        // inside.
        let buf = |segments| unsafe { Buf::foreign(segments, keep.clone()) };
        let descriptors = self.descriptors;
        Content { readable: buf(self.readable), writable: buf(self.writable), descriptors }
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
