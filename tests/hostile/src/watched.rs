//! The simulator's storage, with checks of the operations on it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use async_trait::async_trait;
use block::sim::{Faults, SimFile};
use block::storage::{Extent, Identity, Lock, Opener, Source, Storage, Transfer};
use block::{Buf, Error, ErrorKind, Result};

/// The number of operations on all files of one run that counts as endless. Valid images need a few
/// thousand.
const OPERATIONS: u64 = 300_000;
/// A device's block, in bytes: the smallest unit that is read.
const BLOCK: u64 = 4096;

/// A folder with the image under test, `image`, and a small raw file that it may name, `base`.
pub(crate) struct Folder {
    image: RefCell<Rc<Watched>>,
    base: Rc<Watched>,
    growth: u64,
    operations: Rc<Cell<u64>>,
}

impl Folder {
    /// A folder with an image of these bytes, which may grow by `growth` bytes.
    pub(crate) fn new(image: Vec<u8>, growth: u64) -> Rc<Self> {
        let operations = Rc::<Cell<u64>>::default();
        let base = (0..70 * 512).map(|n| if n % 9000 < 3000 { 0 } else { 0xba }).collect();
        Rc::new(Folder {
            image: RefCell::new(Watched::new("image", cluster_size(&image), image, growth, &operations)),
            base: Watched::new("base", Some(BLOCK), base, 0, &operations),
            growth,
            operations,
        })
    }

    /// Sets the faults of the image from now on.
    pub(crate) fn set_faults(&self, faults: Faults) {
        let image = self.image.borrow();
        image.file.set_faults(Faults { limit: Some(image.limit), ..faults });
    }

    /// The current bytes of the image.
    pub(crate) fn content(&self) -> Vec<u8> {
        self.image.borrow().file.content()
    }
}

#[async_trait(?Send)]
impl Opener for Folder {
    async fn open(&self, name: &str, _writable: bool) -> Result<Rc<dyn Storage>> {
        executor::yield_now().await;
        match name {
            "image" => Ok(self.image.borrow().clone()),
            "base" => Ok(self.base.clone()),
            _ => Err(Error::new(ErrorKind::NotFound, format!("{name}: no such file"))),
        }
    }

    async fn create(&self, name: &str) -> Result<Rc<dyn Storage>> {
        let file = Watched::new(name, None, Vec::new(), self.growth, &self.operations);
        self.image.replace(file.clone());
        Ok(file)
    }
}

/// The cluster size in an image's header, in bytes; a device's block if the format has none. `None` if
/// the header is too short.
fn cluster_size(image: &[u8]) -> Option<u64> {
    let word = |at: usize| image.get(at..at + 4).and_then(|word| word.try_into().ok());
    let size = match image.get(..4)? {
        b"QFI\xfb" => 1u64.checked_shl(u32::from_be_bytes(word(20)?))?,
        b"QED\0" => u32::from_le_bytes(word(4)?).into(),
        _ => BLOCK,
    };
    Some(size.max(BLOCK))
}

struct Watched {
    file: Rc<SimFile>,
    /// The cluster size, in bytes: no read may go beyond the cluster in which the file ends. `None` if
    /// it is unknown.
    cluster: Option<u64>,
    limit: u64,
    operations: Rc<Cell<u64>>,
}

impl Watched {
    fn new(
        name: &str,
        cluster: Option<u64>,
        content: Vec<u8>,
        growth: u64,
        operations: &Rc<Cell<u64>>,
    ) -> Rc<Self> {
        let limit = content.len() as u64 + growth;
        let file = SimFile::new(name, content);
        file.set_faults(Faults { limit: Some(limit), ..Faults::default() });
        Rc::new(Watched { file, cluster, limit, operations: operations.clone() })
    }

    /// Counts an operation, and checks that its caller keeps the rules of [`Storage`].
    fn watch(&self, offset: u64, len: u64) {
        self.operations.set(self.operations.get() + 1);
        assert!(self.operations.get() < OPERATIONS, "this does not come to an end");
        let end = offset.checked_add(len);
        assert!(end.is_some_and(|end| i64::try_from(end).is_ok()), "bad range: {len} bytes at {offset:#x}");
    }

    /// Checks that a read that ends at `end` stays within the file: tables that point outside must not
    /// be read.
    fn watch_read(&self, end: u64) {
        let Some(cluster) = self.cluster else { return };
        let file = self.len();
        let last = file.checked_next_multiple_of(cluster).unwrap_or(u64::MAX);
        assert!(end <= last, "a read up to {end:#x} of a file that ends at {file:#x}");
    }
}

#[async_trait(?Send)]
impl Source for Watched {
    fn name(&self) -> &str {
        self.file.name()
    }

    fn len(&self) -> u64 {
        self.file.len()
    }

    async fn read(&self, offset: u64, buf: Buf) -> Result<()> {
        self.watch(offset, buf.len() as u64);
        self.watch_read(offset + buf.len() as u64);
        self.file.read(offset, buf).await
    }

    async fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        self.watch(offset, len);
        self.file.map(offset, len).await
    }

    fn copied_as(&self) -> Option<&dyn std::any::Any> {
        self.file.copied_as()
    }

    fn lock(&self, lock: Lock) -> Result<()> {
        self.file.lock(lock)
    }

    fn space(&self) -> Option<u64> {
        self.file.space()
    }

    fn identity(&self) -> Option<Identity> {
        self.file.identity()
    }
}

#[async_trait(?Send)]
impl Storage for Watched {
    async fn write(&self, offset: u64, buf: Buf) -> Result<()> {
        self.watch(offset, buf.len() as u64);
        self.file.write(offset, buf).await
    }

    async fn sync(&self) -> Result<()> {
        self.watch(0, 0);
        self.file.sync().await
    }

    async fn truncate(&self, len: u64) -> Result<()> {
        self.watch(0, len);
        if len > self.limit {
            return Err(Error::new(ErrorKind::NoSpace, "no space"));
        }
        self.file.truncate(len).await
    }

    async fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.watch(offset, len);
        self.file.allocate(offset, len).await
    }

    async fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.watch(offset, len);
        self.file.punch(offset, len).await
    }

    async fn unmap(&self, offset: u64, len: u64) -> Result<()> {
        self.watch(offset, len);
        self.file.unmap(offset, len).await
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.watch(offset, len);
        self.file.discard(offset, len).await
    }

    async fn copy_from(
        &self,
        source: &dyn Source,
        from: u64,
        to: u64,
        len: u64,
        unit: u64,
    ) -> Result<Option<Transfer>> {
        self.watch(from, len);
        self.watch(to, len);
        assert!(from + len <= source.len(), "{len} bytes at {from:#x} lie outside of the source");
        self.file.copy_from(source, from, to, len, unit).await
    }

    fn can_copy_from(&self, source: &dyn Source) -> bool {
        self.file.can_copy_from(source)
    }

    async fn sync_name(&self) -> Result<()> {
        self.file.sync_name().await
    }
}

#[cfg(test)]
mod tests {
    use executor::Executor;

    use super::*;

    /// Reads from a file of 5000 bytes after this many operations on it.
    fn read(operations: u64, offset: u64, len: usize) {
        Executor::simulated(0).block_on(async move {
            let operations = Rc::new(Cell::new(operations));
            let file = Watched::new("image", Some(BLOCK), vec![0; 5000], 0, &operations);
            file.read(offset, Buf::new(len)).await.expect("storage without faults");
        });
    }

    #[test]
    fn the_block_that_the_file_ends_in_may_be_read() {
        read(0, 4096, 4096);
    }

    #[test]
    #[should_panic(expected = "a read up to 0x2200 of a file that ends at 0x1388")]
    fn a_read_outside_of_the_file_is_noticed() {
        read(0, 8192, 512);
    }

    #[test]
    #[should_panic(expected = "this does not come to an end")]
    fn work_without_end_is_noticed() {
        read(OPERATIONS, 0, 512);
    }

    #[test]
    fn a_header_tells_its_cluster_size() {
        let qcow2 = [&b"QFI\xfb\0\0\0\x03"[..], &[0; 12], &16u32.to_be_bytes()].concat();
        assert_eq!(cluster_size(&qcow2), Some(65_536));
        assert_eq!(cluster_size(b"QED\0\0\x40\0\0"), Some(16_384));
        assert_eq!(cluster_size(b"QED\0\0"), None);
    }
}
