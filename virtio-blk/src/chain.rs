//! Descriptor chains: from a hostile driver's tables to checked pieces of guest memory.
//!
//! `virtio-queue` has an iterator over a chain, but that one ends in silence where a chain is malformed,
//! and a cut chain must never pass for a complete request. So the walk is our own: each descriptor is
//! read once, checked, and translated once.

use std::any::Any;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use block::Buf;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::config::QUEUE_SIZE;

/// Length of a request's header in bytes (virtio 1.2, 5.2.6).
pub(crate) const HEADER: usize = 16;

/// A chain that no driver may build: the device needs a reset. The text is for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

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

/// Pieces of one guest's memory, in the order of the chain.
pub(crate) struct Data {
    /// Inside of the memory that `keep` holds mapped.
    segments: Vec<(NonNull<u8>, usize)>,
    len: u64,
    keep: Rc<dyn Any>,
}

impl Data {
    fn new(memory: &Memory) -> Self {
        Data { segments: Vec::new(), len: 0, keep: memory.keep.clone() }
    }

    /// The same bytes as a buffer for the disk, without a copy.
    pub(crate) fn buf(self) -> Buf {
        // SAFETY: `push` took each segment from the mapping that `keep` holds, which checked that it
        // lies inside.
        unsafe { Buf::foreign(self.segments, self.keep) }
    }

    /// Length in bytes, at most 2^32.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// `memory` is the one that this was made for.
    fn push(&mut self, memory: &Memory, address: GuestAddress, len: usize) -> Result<(), Malformed> {
        for slice in memory.get_slices(address, len) {
            let slice = slice.map_err(|_| Malformed("a descriptor points outside of guest memory"))?;
            let start = NonNull::new(slice.ptr_guard_mut().as_ptr());
            self.segments
                .push((start.ok_or(Malformed("a descriptor has no memory behind it"))?, slice.len()));
        }
        self.len += len as u64;
        Ok(())
    }

    fn pop_byte(&mut self) {
        if let Some((_, len)) = self.segments.last_mut() {
            *len -= 1;
            self.len -= 1;
            if *len == 0 {
                self.segments.pop();
            }
        }
    }
}

/// A complete, well-formed request, taken apart without regard to how the driver cut it into
/// descriptors (virtio 1.2, 2.7.4).
pub(crate) struct Chain {
    /// The first 16 device-readable bytes, copied.
    pub(crate) header: [u8; HEADER],
    /// What the device may read behind the header.
    pub(crate) readable: Data,
    /// What the device may write before the status byte.
    pub(crate) writable: Data,
    /// Where the status goes: the last device-writable byte, inside of guest memory.
    pub(crate) status: GuestAddress,
}

/// Walks the chain that starts at descriptor `head`. `indirect` says that
/// VIRTIO_RING_F_INDIRECT_DESC was negotiated.
///
/// At most [`QUEUE_SIZE`] descriptors are looked at and one table is followed, whatever the driver wrote.
pub(crate) fn read(memory: &Memory, queue: &Queue, head: u16, indirect: bool) -> Result<Chain, Malformed> {
    let mut walk = Walk {
        memory,
        header: [0; HEADER],
        header_len: 0,
        readable: Data::new(memory),
        writable: Data::new(memory),
        status: None,
        total: 0,
    };
    let mut table = GuestAddress(queue.desc_table());
    let mut entries = u32::from(queue.size());
    let mut in_indirect = false;
    let mut index = head;
    // A driver must not make a chain longer than its queue, which is at most as long as ours (2.7.5.3.1).
    // Some count only the direct descriptors, so the limit is the longest queue, not this one.
    let mut left = QUEUE_SIZE;
    loop {
        if u32::from(index) >= entries {
            return Err(Malformed("a descriptor index is out of range"));
        }
        let descriptor: Descriptor = table
            .checked_add(u64::from(index) * size_of::<Descriptor>() as u64)
            .and_then(|address| memory.read_obj(address).ok())
            .ok_or(Malformed("a descriptor table lies outside of guest memory"))?;
        if descriptor.refers_to_indirect_table() {
            // 2.7.5.3.1: none without the feature, none in another table, none with NEXT. WRITE is to be
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
            return walk.end();
        }
        index = descriptor.next();
    }
}

struct Walk<'a> {
    memory: &'a Memory,
    header: [u8; HEADER],
    header_len: usize,
    readable: Data,
    writable: Data,
    /// The last byte of the last writable descriptor so far.
    status: Option<GuestAddress>,
    total: u64,
}

impl Walk<'_> {
    fn add(&mut self, descriptor: &Descriptor) -> Result<(), Malformed> {
        let mut address = descriptor.addr();
        let mut len = descriptor.len() as usize;
        if len == 0 {
            return Err(Malformed("a descriptor of zero bytes"));
        }
        self.total += len as u64;
        if self.total > 1 << 32 {
            return Err(Malformed("a chain of more than 2^32 bytes")); // 2.7.5.2
        }
        if descriptor.is_write_only() {
            self.writable.push(self.memory, address, len)?;
            self.status = address.checked_add(len as u64 - 1);
            return Ok(());
        }
        if self.status.is_some() {
            return Err(Malformed("a readable descriptor behind a writable one")); // 2.7.4.2
        }
        let part = len.min(HEADER - self.header_len);
        if part > 0 {
            let into = &mut self.header[self.header_len..self.header_len + part];
            self.memory
                .read_slice(into, address)
                .map_err(|_| Malformed("a header lies outside of guest memory"))?;
            self.header_len += part;
            len -= part;
            if len == 0 {
                return Ok(());
            }
            address = address.checked_add(part as u64).ok_or(Malformed("a descriptor wraps around"))?;
        }
        self.readable.push(self.memory, address, len)
    }

    fn end(mut self) -> Result<Chain, Malformed> {
        let status = self.status.ok_or(Malformed("a request without room for its status"))?;
        if self.header_len < HEADER {
            return Err(Malformed("a request without a whole header"));
        }
        self.writable.pop_byte();
        Ok(Chain { header: self.header, readable: self.readable, writable: self.writable, status })
    }
}

#[cfg(test)]
mod tests;
