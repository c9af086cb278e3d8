//! The simulator's storage with an eye on what is asked of it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use async_trait::async_trait;
use block::chain::Opener;
use block::sim::{Faults, SimFile};
use block::storage::{Extent, Identity, Lock, Storage, Transfer};
use block::{Buf, Error, ErrorKind, Result};

/// Operations on all files of one run. Sound images need a few thousand.
const OPERATIONS: u64 = 300_000;

/// A folder with the image under test, `image`, and a small raw file that it may name, `base`.
pub(crate) struct Folder {
    image: RefCell<Rc<Watched>>,
    base: Rc<Watched>,
    growth: u64,
    operations: Rc<Cell<u64>>,
}

impl Folder {
    /// The image's bytes, and by how many it may grow.
    pub(crate) fn new(image: Vec<u8>, growth: u64) -> Rc<Self> {
        let operations = Rc::<Cell<u64>>::default();
        let base = (0..70 * 512).map(|n| if n % 9000 < 3000 { 0 } else { 0xba }).collect();
        Rc::new(Folder {
            image: RefCell::new(Watched::new("image", image, growth, &operations)),
            base: Watched::new("base", base, 0, &operations),
            growth,
            operations,
        })
    }

    /// What the image does wrong from now on.
    pub(crate) fn set_faults(&self, faults: Faults) {
        let image = self.image.borrow();
        image.file.set_faults(Faults { limit: Some(image.limit), ..faults });
    }

    /// The image's bytes now.
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
        let file = Watched::new(name, Vec::new(), self.growth, &self.operations);
        self.image.replace(file.clone());
        Ok(file)
    }
}

struct Watched {
    file: Rc<SimFile>,
    limit: u64,
    operations: Rc<Cell<u64>>,
}

impl Watched {
    fn new(name: &str, content: Vec<u8>, growth: u64, operations: &Rc<Cell<u64>>) -> Rc<Self> {
        let limit = content.len() as u64 + growth;
        let file = SimFile::new(name, content);
        file.set_faults(Faults { limit: Some(limit), ..Faults::default() });
        Rc::new(Watched { file, limit, operations: operations.clone() })
    }

    /// Counts an operation, and holds its caller to what [`Storage`] asks of it.
    fn watch(&self, offset: u64, len: u64) {
        self.operations.set(self.operations.get() + 1);
        assert!(self.operations.get() < OPERATIONS, "this does not come to an end");
        let end = offset.checked_add(len);
        assert!(end.is_some_and(|end| i64::try_from(end).is_ok()), "{len} bytes at {offset:#x} are no range");
    }
}

#[async_trait(?Send)]
impl Storage for Watched {
    fn name(&self) -> &str {
        self.file.name()
    }

    fn len(&self) -> u64 {
        self.file.len()
    }

    async fn read(&self, offset: u64, buf: Buf) -> Result<()> {
        self.watch(offset, buf.len() as u64);
        self.file.read(offset, buf).await
    }

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

    async fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        self.watch(offset, len);
        self.file.map(offset, len).await
    }

    async fn copy_from(
        &self,
        source: &dyn Storage,
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

    fn can_copy_from(&self, source: &dyn Storage) -> bool {
        self.file.can_copy_from(source)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self.file.as_any()
    }

    fn lock(&self, lock: Lock) -> Result<()> {
        self.file.lock(lock)
    }

    fn identity(&self) -> Option<Identity> {
        self.file.identity()
    }

    async fn sync_name(&self) -> Result<()> {
        self.file.sync_name().await
    }
}
