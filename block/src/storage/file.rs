//! Regular files and block devices.

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;

use async_trait::async_trait;

use super::nbd::{self, NbdStorage};
use super::{Extent, Identity, Lock, Storage, Transfer};
use crate::chain::Opener;
use crate::io::Engine;
use crate::name::Name;
use crate::ranges::RangeLocks;
use crate::{Buf, Error, ErrorKind, Result};

mod copy;
mod kernel;
mod locks;

pub(crate) use copy::clone_range;

/// What the sectors of every block device divide, in bytes.
const DEVICE_SECTOR: u64 = 4096;

/// How the files of a disk are opened, and NBD exports beside them.
pub struct FileOpener {
    /// What operations go through.
    pub engine: Engine,
    /// Past the host's page cache (O_DIRECT).
    pub direct: bool,
}

#[async_trait(?Send)]
impl Opener for FileOpener {
    async fn open(&self, name: &str, writable: bool) -> Result<Rc<dyn Storage>> {
        match Name::parse(name)? {
            Name::Export(uri) => Ok(Rc::new(NbdStorage::open(uri, writable).await?)),
            Name::File(path) => {
                let mut options = OpenOptions::new();
                let file = FileStorage::open(self, path, options.read(true).write(writable)).await?;
                Ok(Rc::new(file))
            }
        }
    }

    async fn create(&self, name: &str) -> Result<Rc<dyn Storage>> {
        let Name::File(name) = Name::parse(name)? else {
            let text = format!("{name}: an NBD export is created by its server");
            return Err(Error::new(ErrorKind::Unsupported, text));
        };
        // Not truncated by the open: the file may be somebody's running image.
        let mut options = OpenOptions::new();
        let file = FileStorage::open(self, name, options.read(true).write(true).create(true)).await?;
        file.lock(Lock::Leaf)?;
        if !file.is_device {
            file.truncate(0).await?;
        }
        Ok(Rc::new(file))
    }

    async fn identity(&self, name: &str) -> Result<Option<Identity>> {
        match Name::parse(name)? {
            // Not by a connection: some servers serve one client at a time.
            Name::Export(uri) => nbd::identity(uri).map(Some),
            Name::File(_) => Ok(self.open(name, false).await?.identity()),
        }
    }

    fn absolute(&self, name: &str) -> Result<String> {
        let Name::File(path) = Name::parse(name)? else { return Ok(name.to_owned()) };
        let path = std::path::absolute(path).map_err(|e| Error::io(name, &e))?;
        Ok(path.to_string_lossy().into_owned())
    }
}

/// An open file.
struct FileStorage {
    name: String,
    file: Rc<File>,
    engine: Engine,
    len: Cell<u64>,
    is_device: bool,
    /// It lies on tmpfs.
    is_in_memory: bool,
    writable: bool,
    identity: Identity,
    /// What offsets, lengths and memory must be multiples of; 1 with the page cache.
    alignment: u64,
    /// Writes in flight, where some may have to read and write back what lies around them.
    around: Rc<RangeLocks>,
    sync_failed: Cell<bool>,
    copying: copy::Known,
    held: Cell<Lock>,
    /// The last answer of [`Storage::map`], for files that nobody writes: start, end, data.
    mapped: RefCell<Option<(u64, u64, bool)>>,
}

impl FileStorage {
    async fn open(opener: &FileOpener, name: &str, options: &OpenOptions) -> Result<Self> {
        let mut options = options.clone();
        // Opening a FIFO or a tape must not wait for its other end.
        let direct = if opener.direct { libc::O_DIRECT } else { 0 };
        options.custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | direct);
        let path = name.to_owned();
        let opened = executor::outside(move || {
            let file = options.open(&path)?;
            let metadata = file.metadata()?;
            let is_in_memory = kernel::is_in_memory(&file)?;
            Ok((file, metadata, is_in_memory))
        });
        let (file, metadata, is_in_memory) = opened.await.map_err(|e: io::Error| match e.raw_os_error() {
            Some(libc::EINVAL) if opener.direct => Error::new(
                ErrorKind::Unsupported,
                format!("{name}: the file system has no O_DIRECT; use cache=writeback"),
            ),
            _ => Error::io(format_args!("opening {name}"), &e),
        })?;
        let kind = metadata.file_type();
        let is_device = kind.is_block_device();
        if !kind.is_file() && !is_device {
            let text = format!("{name}: neither a regular file nor a block device");
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let (identity, len) = if is_device {
            let len = io::Seek::seek(&mut &file, io::SeekFrom::End(0));
            let len = len.map_err(|e| Error::io(format_args!("sizing {name}"), &e))?;
            (Identity { device: metadata.rdev(), inode: u64::MAX }, len)
        } else {
            (Identity { device: metadata.dev(), inode: metadata.ino() }, metadata.len())
        };
        // SAFETY: a system call on an open descriptor, with no memory involved.
        let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
        Ok(FileStorage {
            name: name.to_owned(),
            writable: flags & libc::O_ACCMODE != libc::O_RDONLY,
            alignment: if opener.direct { kernel::direct_alignment(&file) } else { 1 },
            file: Rc::new(file),
            engine: opener.engine.clone(),
            len: Cell::new(len),
            is_device,
            is_in_memory,
            identity,
            around: RangeLocks::new(),
            sync_failed: Cell::new(false),
            copying: copy::Known::default(),
            held: Cell::new(Lock::None),
            mapped: RefCell::default(),
        })
    }

    fn error(&self, doing: &str, at: u64, e: &io::Error) -> Error {
        Error::io(format_args!("{doing} {} at {at}", self.name), e)
    }

    /// Whether both go through the host's page cache.
    fn is_cached_with(&self, source: &FileStorage) -> bool {
        self.alignment == 1 && source.alignment == 1
    }

    fn is_aligned(&self, offset: u64, buf: &Buf) -> bool {
        self.alignment == 1
            || offset.is_multiple_of(self.alignment) && buf.is_aligned(self.alignment as usize)
    }

    /// Reads with offset, length and memory as they are; past the end, zeros.
    async fn read_aligned(&self, offset: u64, buf: &Buf) -> Result<()> {
        let mut at = 0;
        while at < buf.len() {
            let rest = if at == 0 { buf.clone() } else { buf.slice(at..buf.len()) };
            match self.engine.read(&self.file, offset + at as u64, &rest).await {
                Ok(0) => {
                    rest.zero();
                    break;
                }
                // An unaligned rest under O_DIRECT is the file's own end.
                Ok(n) if self.alignment > 1 && !(n as u64).is_multiple_of(self.alignment) => {
                    rest.slice(n..rest.len()).zero();
                    break;
                }
                Ok(n) => at += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.error("reading", offset + at as u64, &e)),
            }
        }
        Ok(())
    }

    async fn write_aligned(&self, offset: u64, buf: &Buf) -> Result<()> {
        let mut at = 0;
        while at < buf.len() {
            let rest = if at == 0 { buf.clone() } else { buf.slice(at..buf.len()) };
            match self.engine.write(&self.file, offset + at as u64, &rest).await {
                Ok(0) => {
                    let e = io::Error::from(io::ErrorKind::WriteZero);
                    return Err(self.error("writing", offset + at as u64, &e));
                }
                Ok(n) => at += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.error("writing", offset + at as u64, &e)),
            }
        }
        Ok(())
    }

    async fn write_zeros(&self, offset: u64, len: u64) -> Result<()> {
        let zeros = Buf::new(len.min(1 << 20) as usize);
        let mut at = 0;
        while at < len {
            let n = (len - at).min(zeros.len() as u64);
            self.write(offset + at, zeros.slice(0..n as usize)).await?;
            at += n;
        }
        Ok(())
    }

    /// Makes a range read as zeros. `unmap`: its space is given back; else it is kept, or taken.
    async fn zero_range(&self, offset: u64, len: u64, unmap: bool) -> Result<()> {
        // A device takes its own sectors only, and 4096 bytes are a multiple of any of them.
        let end = offset + len;
        let inner = offset.next_multiple_of(DEVICE_SECTOR)..end - end % DEVICE_SECTOR;
        if !self.is_device || inner == (offset..end) {
            return self.zero_sectors(offset, len, unmap).await;
        }
        if inner.start >= inner.end {
            return self.write_zeros(offset, len).await;
        }
        self.write_zeros(offset, inner.start - offset).await?;
        self.write_zeros(inner.end, end - inner.end).await?;
        self.zero_sectors(inner.start, inner.end - inner.start, unmap).await
    }

    async fn zero_sectors(&self, offset: u64, len: u64, unmap: bool) -> Result<()> {
        let punch = libc::FALLOC_FL_PUNCH_HOLE;
        if !unmap && self.fallocated("zeroing", libc::FALLOC_FL_ZERO_RANGE, offset, len).await? {
            return Ok(());
        }
        if !self.fallocated("punching a hole into", punch, offset, len).await? {
            return self.write_zeros(offset, len).await;
        }
        // Zero by now; where there is no way to take space ahead, that is all that can be had.
        if !unmap {
            self.fallocated("allocating space in", 0, offset, len).await?;
        }
        Ok(())
    }

    /// fallocate(2) that leaves the length as it is; `false` where the file has no such mode.
    async fn fallocated(&self, doing: &str, mode: libc::c_int, offset: u64, len: u64) -> Result<bool> {
        let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
        match self.engine.fallocate(&self.file, mode, offset, len).await {
            Ok(()) => Ok(true),
            Err(e) if Error::io("", &e).kind() == ErrorKind::Unsupported => Ok(false),
            Err(e) => Err(self.error(doing, offset, &e)),
        }
    }

    /// A range and buffer that O_DIRECT takes, around the wished-for one.
    fn widen(&self, offset: u64, len: u64) -> (u64, Buf) {
        let start = offset - offset % self.alignment;
        let end = (offset + len).next_multiple_of(self.alignment);
        (start, Buf::new((end - start) as usize))
    }
}

impl Drop for FileStorage {
    fn drop(&mut self) {
        // Said, not left to the descriptor's end: io_uring holds the file for a moment longer than the
        // last operation, and whoever opens the image next would find it locked.
        let _ = self.lock(Lock::None);
    }
}

#[async_trait(?Send)]
impl Storage for FileStorage {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len.get()
    }

    async fn read(&self, offset: u64, buf: Buf) -> Result<()> {
        if self.is_aligned(offset, &buf) {
            return self.read_aligned(offset, &buf).await;
        }
        let (start, bounce) = self.widen(offset, buf.len() as u64);
        self.read_aligned(start, &bounce).await?;
        let skip = (offset - start) as usize;
        buf.copy_from_buf(&bounce.slice(skip..skip + buf.len()));
        Ok(())
    }

    async fn write(&self, offset: u64, buf: Buf) -> Result<()> {
        let end = offset + buf.len() as u64;
        if self.alignment == 1 {
            self.write_aligned(offset, &buf).await?;
        } else if self.is_aligned(offset, &buf) {
            let _lock = self.around.lock(offset..end).await;
            self.write_aligned(offset, &buf).await?;
        } else {
            let (start, bounce) = self.widen(offset, buf.len() as u64);
            let stop = start + bounce.len() as u64;
            // What is written past the file's end is cut off again: nobody may write behind it.
            let past = stop > self.len.get().max(end) && !self.is_device;
            let _lock = self.around.lock(start..if past { u64::MAX } else { stop }).await;
            self.read_aligned(start, &bounce).await?;
            let skip = (offset - start) as usize;
            bounce.slice(skip..skip + buf.len()).copy_from_buf(&buf);
            self.write_aligned(start, &bounce).await?;
            let len = self.len.get().max(end);
            if past && stop > len {
                self.truncate(len).await?;
            }
        }
        self.len.set(self.len.get().max(end));
        Ok(())
    }

    async fn sync(&self) -> Result<()> {
        if !self.writable {
            return Ok(());
        }
        if self.sync_failed.get() {
            let text = format!("syncing {}: an earlier sync failed, so data may be lost", self.name);
            return Err(Error::new(ErrorKind::Io, text));
        }
        match self.engine.sync(&self.file).await {
            Ok(()) => Ok(()),
            Err(e) => {
                self.sync_failed.set(true);
                Err(Error::io(format_args!("syncing {}", self.name), &e))
            }
        }
    }

    fn is_fixed(&self) -> bool {
        self.is_device
    }

    fn gains_from_space_ahead(&self) -> bool {
        // It would zero memory that is then written.
        !self.is_in_memory
    }

    async fn truncate(&self, len: u64) -> Result<()> {
        if self.is_device {
            let has = self.len.get();
            if len <= has {
                return Ok(());
            }
            let text = format!("{}: the device has {has} bytes, and {len} are needed", self.name);
            return Err(Error::new(ErrorKind::NoSpace, text));
        }
        let file = self.file.try_clone().map_err(|e| self.error("resizing", len, &e))?;
        let done = executor::unblock(move || file.set_len(len)).await;
        done.map_err(|e| Error::io(format_args!("resizing {}", self.name), &e))?;
        self.len.set(len);
        Ok(())
    }

    async fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        let done = self.engine.fallocate(&self.file, 0, offset, len).await;
        done.map_err(|e| self.error("allocating space in", offset, &e))?;
        self.len.set(self.len.get().max(offset + len));
        Ok(())
    }

    async fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.zero_range(offset, len, true).await
    }

    async fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.zero_range(offset, len, false).await
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        // Parts of blocks would be written, not given back.
        let end = offset + len;
        let inner = offset.next_multiple_of(DEVICE_SECTOR)..end - end % DEVICE_SECTOR;
        if inner.start >= inner.end {
            return Ok(());
        }
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let done = self.engine.fallocate(&self.file, mode, inner.start, inner.end - inner.start).await;
        done.map_err(|e| self.error("punching a hole into", offset, &e))
    }

    async fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        let cached = *self.mapped.borrow();
        if let Some((start, end, data)) = cached
            && (start..end).contains(&offset)
        {
            return Ok(Extent { len: len.min(end - offset), data });
        }
        if self.is_device {
            return Ok(Extent { len, data: true });
        }
        let file = self.file.try_clone().map_err(|e| self.error("mapping", offset, &e))?;
        let (end, data) = executor::unblock(move || kernel::extent(&file, offset)).await;
        let end = end.unwrap_or(u64::MAX);
        if !self.writable {
            *self.mapped.borrow_mut() = Some((offset, end, data));
        }
        Ok(Extent { len: len.min(end - offset), data })
    }

    async fn copy_from(
        &self,
        source: &dyn Storage,
        from: u64,
        to: u64,
        len: u64,
        unit: u64,
    ) -> Result<Option<Transfer>> {
        let Some(source) = source.as_any().downcast_ref::<FileStorage>() else { return Ok(None) };
        let done = self.copying.share(&source.file, from, &self.file, to, len).await;
        let transfer = if done.map_err(|e| self.error("copying to", to, &e))? {
            Transfer::Shared
        } else if self.is_cached_with(source) {
            let done = copy::through_cache(&source.file, from, &self.file, to, len, unit).await;
            let zero = done.map_err(|failed| match failed {
                copy::Failed::Read(at, e) => source.error("reading", at, &e),
                copy::Failed::Write(at, e) => self.error("writing", at, &e),
            })?;
            Transfer::Written { zero }
        } else {
            return Ok(None);
        };
        self.len.set(self.len.get().max(to + len));
        Ok(Some(transfer))
    }

    fn can_copy_from(&self, source: &dyn Storage) -> bool {
        let source = source.as_any().downcast_ref::<FileStorage>();
        source.is_some_and(|source| self.copying.may_work() || self.is_cached_with(source))
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn lock(&self, lock: Lock) -> Result<()> {
        locks::change(&self.file, &self.name, self.held.get(), lock)?;
        self.held.set(lock);
        Ok(())
    }

    fn space(&self) -> Option<u64> {
        self.file.metadata().ok().map(|metadata| metadata.blocks() * 512)
    }

    fn lock_after(&self, before: &dyn Storage, lock: Lock) -> Result<()> {
        // What the other one may hold, this one may.
        before.lock(lock)?;
        locks::hold(&self.file, &self.name, self.held.get(), lock)?;
        self.held.set(lock);
        before.lock(Lock::None)
    }

    fn identity(&self) -> Option<Identity> {
        Some(self.identity)
    }

    async fn sync_name(&self) -> Result<()> {
        let folder = Path::new(&self.name).parent().filter(|p| !p.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).to_owned();
        let shown = folder.display().to_string();
        let done = executor::outside(move || File::open(&folder)?.sync_all()).await;
        done.map_err(|e| Error::io(format_args!("syncing the folder {shown}"), &e))
    }
}
