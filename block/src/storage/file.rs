//! Regular files and block devices.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;

use async_trait::async_trait;

use super::bytes::{Blocks, Bytes};
use super::in_use::Use;
use super::protocol::Protocol;
use super::{Extent, HostOpener, Identity, Lock, Source, Storage, Transfer};
use crate::io::Engine;
use crate::{Buf, Error, ErrorKind, Result};

mod copy;
mod kernel;
mod locks;

pub(crate) use copy::clone_range;

/// A multiple of the sector size of every block device, in bytes.
const DEVICE_SECTOR: u64 = 4096;

/// The protocol `file`, and that of names without a protocol.
pub(super) struct Files;

#[async_trait(?Send)]
impl Protocol for Files {
    fn schemes(&self) -> &'static [&'static str] {
        &["file"]
    }

    async fn open(&self, opener: &HostOpener, path: &str, writable: bool) -> Result<Rc<dyn Storage>> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(writable);
        Ok(Rc::new(FileStorage::open(opener, path, "open", options).await?))
    }

    async fn create(&self, opener: &HostOpener, path: &str) -> Result<Rc<dyn Storage>> {
        // Not truncated by the open: the file may be somebody's running image.
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true);
        let file = FileStorage::open(opener, path, "create", options).await?;
        Use::refuse_any(&file)?;
        file.lock(Lock::Leaf)?;
        if !file.is_device {
            file.truncate(0).await?;
        }
        Ok(Rc::new(file))
    }

    fn outside(&self, _uri: &str) -> Result<Option<Identity>> {
        Ok(None)
    }
}

/// Opens a file for a record, through the page cache. If `new`, creates it; what exists is refused,
/// whatever it is.
pub(super) async fn open_record(opener: &HostOpener, path: &str, new: bool) -> Result<Rc<dyn Storage>> {
    let cached = HostOpener { engine: opener.engine.clone(), direct: false };
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create_new(new);
    let verb = if new { "create" } else { "open" };
    Ok(Rc::new(FileStorage::open(&cached, path, verb, options).await?))
}

/// An open file.
struct FileStorage {
    name: String,
    file: Rc<File>,
    engine: Engine,
    /// The length, and access that is not aligned as O_DIRECT requires.
    bytes: Bytes,
    is_device: bool,
    /// True if the file lies on tmpfs.
    is_in_memory: bool,
    writable: bool,
    identity: Identity,
    sync_failed: Cell<bool>,
    copying: copy::Known,
    held: Cell<Lock>,
    /// The last result of [`Source::map`] that still holds: start, end, and true for data.
    mapped: Cell<Option<(u64, u64, bool)>>,
    /// The number of times that an operation which may make holes has begun.
    holes: Cell<u64>,
}

/// An operation that may turn data into holes. A map that was begun meanwhile is not kept.
struct Holes<'a>(&'a FileStorage);

impl Drop for Holes<'_> {
    fn drop(&mut self) {
        self.0.holes.set(self.0.holes.get() + 1);
        self.0.mapped.set(None);
    }
}

impl FileStorage {
    async fn open(opener: &HostOpener, name: &str, verb: &str, options: &OpenOptions) -> Result<Self> {
        let mut options = options.clone();
        // Opening a FIFO or a tape must not wait for its other end.
        let direct = if opener.direct { libc::O_DIRECT } else { 0 };
        options.custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | direct);
        let path = name.to_owned();
        let opened = executor::unconfined(move || {
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
            _ => Error::io(format_args!("Could not {verb} '{name}'"), &e),
        })?;
        let kind = metadata.file_type();
        let is_device = kind.is_block_device();
        if !kind.is_file() && !is_device {
            let text = format!("{name}: neither a regular file nor a block device");
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let (identity, len) = if is_device {
            let len = kernel::device_size(&file);
            let len = len.map_err(|e| Error::io(format_args!("sizing {name}"), &e))?;
            (Identity { device: metadata.rdev(), inode: u64::MAX }, len)
        } else {
            (Identity { device: metadata.dev(), inode: metadata.ino() }, metadata.len())
        };
        let unit = if opener.direct { kernel::direct_alignment(&file, is_device) } else { 1 };
        // SAFETY: a system call on an open descriptor, with no memory involved.
        let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
        Ok(FileStorage {
            name: name.to_owned(),
            writable: flags & libc::O_ACCMODE != libc::O_RDONLY,
            bytes: Bytes::new(unit, true, is_device, len),
            file: Rc::new(file),
            engine: opener.engine.clone(),
            is_device,
            is_in_memory,
            identity,
            sync_failed: Cell::new(false),
            copying: copy::Known::default(),
            held: Cell::new(Lock::None),
            mapped: Cell::new(None),
            holes: Cell::new(0),
        })
    }

    fn error(&self, doing: &str, at: u64, e: &io::Error) -> Error {
        Error::io(format_args!("{doing} {} at {at}", self.name), e)
    }

    /// Returns the file behind a source, if it is one of this host.
    fn behind(source: &dyn Source) -> Option<&FileStorage> {
        source.copied_as()?.downcast_ref()
    }

    /// Returns true if both files go through the host's page cache.
    fn is_cached_with(&self, source: &FileStorage) -> bool {
        self.bytes.unit() == 1 && source.bytes.unit() == 1
    }

    /// Begins an operation that may turn data into holes.
    fn make_holes(&self) -> Holes<'_> {
        self.holes.set(self.holes.get() + 1);
        Holes(self)
    }

    /// Calls fallocate(2) without changing the length. Returns false if the file does not support the
    /// mode.
    async fn fallocated(&self, doing: &str, mode: libc::c_int, offset: u64, len: u64) -> Result<bool> {
        let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
        match self.engine.fallocate(&self.file, mode, offset, len).await {
            Ok(()) => Ok(true),
            Err(e) if Error::io("", &e).kind() == ErrorKind::Unsupported => Ok(false),
            Err(e) => Err(self.error(doing, offset, &e)),
        }
    }

    /// Notes the locks now held. A file that is no longer our leaf may be written and extended by others.
    fn holds(&self, lock: Lock) {
        let before = self.held.replace(lock);
        // Others may have changed its length between the opening and this lock.
        if before == Lock::None
            && !self.is_device
            && let Ok(metadata) = self.file.metadata()
        {
            self.bytes.measured(metadata.len());
        }
        if before != lock {
            self.mapped.set(None);
        }
        if before != lock && (before == Lock::Leaf || lock == Lock::Leaf) {
            self.bytes.set_owner(lock == Lock::Leaf);
        }
    }

    /// The unit in bytes of the ranges that fallocate(2) takes.
    fn clear_unit(&self) -> u64 {
        // A device takes only whole sectors, and 4096 bytes are a multiple of any sector size.
        if self.is_device { DEVICE_SECTOR } else { 1 }
    }
}

impl Blocks for FileStorage {
    async fn read_blocks(&self, offset: u64, buf: &Buf) -> Result<()> {
        tracing::trace!(file = %self.name, offset, len = buf.len(), "reading");
        let unit = self.bytes.unit();
        let mut at = 0;
        while at < buf.len() {
            let rest = if at == 0 { buf.clone() } else { buf.slice(at..buf.len()) };
            match self.engine.read(&self.file, offset + at as u64, &rest).await {
                Ok(0) => {
                    rest.zero();
                    break;
                }
                // Under O_DIRECT, only a read at the file's end is cut short like this.
                Ok(n) if unit > 1 && !(n as u64).is_multiple_of(unit) => {
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

    async fn write_blocks(&self, offset: u64, buf: &Buf) -> Result<()> {
        tracing::trace!(file = %self.name, offset, len = buf.len(), "writing");
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

    async fn clear_blocks(&self, offset: u64, len: u64, unmap: bool) -> Result<bool> {
        let _holes = self.make_holes();
        let punch = libc::FALLOC_FL_PUNCH_HOLE;
        if !unmap && self.fallocated("zeroing", libc::FALLOC_FL_ZERO_RANGE, offset, len).await? {
            return Ok(true);
        }
        if !self.fallocated("punching a hole into", punch, offset, len).await? {
            return Ok(false);
        }
        // The range is zero by now; if its space cannot be allocated ahead, nothing better is possible.
        if !unmap {
            self.fallocated("allocating space in", 0, offset, len).await?;
        }
        Ok(true)
    }

    async fn set_end(&self, len: u64) -> Result<()> {
        let _holes = self.make_holes();
        let file = self.file.try_clone().map_err(|e| self.error("resizing", len, &e))?;
        let done = executor::unblock(move || file.set_len(len)).await;
        done.map_err(|e| Error::io(format_args!("resizing {}", self.name), &e))
    }
}

impl Drop for FileStorage {
    fn drop(&mut self) {
        if let Some(len) = self.bytes.excess()
            && let Err(e) = self.file.set_len(len)
        {
            tracing::warn!("{}: cannot cut the file to its {len} bytes: {e}", self.name);
        }
        // Unlocks explicitly, not by closing the descriptor: io_uring holds the file for a moment longer
        // than the last operation, and whoever opens the image next would find it locked.
        let _ = self.lock(Lock::None);
    }
}

#[async_trait(?Send)]
impl Source for FileStorage {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.bytes.len()
    }

    async fn read(&self, offset: u64, buf: Buf) -> Result<()> {
        self.bytes.read(self, offset, &buf).await
    }

    fn is_fixed(&self) -> bool {
        self.is_device
    }

    async fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        if let Some((start, end, data)) = self.mapped.get()
            && (start..end).contains(&offset)
        {
            return Ok(Extent { len: len.min(end - offset), data });
        }
        if self.is_device {
            return Ok(Extent { len, data: true });
        }
        let file = self.file.try_clone().map_err(|e| self.error("mapping", offset, &e))?;
        let holes = self.holes.get();
        let (end, data) = executor::unblock(move || kernel::extent(&file, offset)).await;
        let end = end.unwrap_or(u64::MAX);
        // Of a file that only we write, data stay data until we make a hole: a job that copies a disk asks
        // about each of its steps, and each question costs two changes of thread.
        let stays = !self.writable || (data && self.held.get() == Lock::Leaf);
        if stays && self.holes.get() == holes {
            self.mapped.set(Some((offset, end, data)));
        }
        Ok(Extent { len: len.min(end - offset), data })
    }

    fn copied_as(&self) -> Option<&dyn std::any::Any> {
        Some(self)
    }

    fn lock(&self, lock: Lock) -> Result<()> {
        locks::change(&self.file, &self.name, self.held.get(), lock)?;
        self.holds(lock);
        Ok(())
    }

    fn space(&self) -> Option<u64> {
        self.file.metadata().ok().map(|metadata| metadata.blocks() * 512)
    }

    fn lock_after(&self, before: &dyn Source, lock: Lock) -> Result<()> {
        // This opening may hold whatever the other one may hold, so it checks for no conflict.
        before.lock(lock)?;
        locks::hold(&self.file, &self.name, self.held.get(), lock)?;
        self.holds(lock);
        before.lock(Lock::None)
    }

    fn identity(&self) -> Option<Identity> {
        Some(self.identity)
    }
}

#[async_trait(?Send)]
impl Storage for FileStorage {
    async fn write(&self, offset: u64, buf: Buf) -> Result<()> {
        self.bytes.write(self, offset, &buf).await
    }

    async fn sync(&self) -> Result<()> {
        if !self.writable {
            return Ok(());
        }
        if self.sync_failed.get() {
            let text = format!("syncing {}: an earlier sync failed, so data may be lost", self.name);
            return Err(Error::new(ErrorKind::Io, text));
        }
        // An excess that cannot be cut off is no reason to fail; a later call cuts it off.
        if let Err(e) = self.bytes.trim(self).await {
            tracing::debug!("{e}");
        }
        match self.engine.sync(&self.file).await {
            Ok(()) => Ok(()),
            Err(e) => {
                self.sync_failed.set(true);
                Err(Error::io(format_args!("syncing {}", self.name), &e))
            }
        }
    }

    fn gains_from_space_ahead(&self) -> bool {
        // On tmpfs it would zero memory that is overwritten later.
        !self.is_in_memory
    }

    async fn truncate(&self, len: u64) -> Result<()> {
        if !self.is_device {
            return self.bytes.truncate(self, len).await;
        }
        // The device may have grown since it was opened.
        let has = kernel::device_size(&self.file);
        let has = has.map_err(|e| Error::io(format_args!("sizing {}", self.name), &e))?;
        self.bytes.measured(has);
        if len <= has {
            return Ok(());
        }
        let text = format!("{}: the device has {has} bytes, and {len} are needed", self.name);
        Err(Error::new(ErrorKind::NoSpace, text))
    }

    async fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        let _end = self.bytes.hold_end().await;
        let end = offset + len;
        match self.engine.fallocate(&self.file, 0, offset, len).await {
            Ok(()) => {
                self.bytes.grown(end);
                Ok(())
            }
            Err(e) => {
                // The call may have got half way.
                self.bytes.reach(end);
                Err(self.error("allocating space in", offset, &e))
            }
        }
    }

    async fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.bytes.clear(self, offset..offset + len, true, self.clear_unit()).await
    }

    async fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.bytes.clear(self, offset..offset + len, false, self.clear_unit()).await
    }

    async fn unmap(&self, offset: u64, len: u64) -> Result<()> {
        // For parts of blocks the kernel would write zeros instead of giving space back.
        let end = offset + len;
        let inner = offset.next_multiple_of(DEVICE_SECTOR)..end - end % DEVICE_SECTOR;
        if inner.start >= inner.end {
            return Ok(());
        }
        let len = inner.end - inner.start;
        let _holes = self.make_holes();
        let _lock = self.bytes.hold(inner.start, len).await;
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let done = self.engine.fallocate(&self.file, mode, inner.start, len).await;
        done.map_err(|e| self.error("punching a hole into", offset, &e))
    }

    async fn copy_from(
        &self,
        source: &dyn Source,
        from: u64,
        to: u64,
        len: u64,
        unit: u64,
    ) -> Result<Option<Transfer>> {
        let Some(source) = Self::behind(source) else { return Ok(None) };
        let _lock = self.bytes.hold(to, len).await;
        // Of a source with holes, too.
        let _holes = self.make_holes();
        // The file may become this long even if the copy fails.
        self.bytes.reach(to + len);
        let done = self.copying.share(&source.file, from, &self.file, to, len).await;
        let transfer = if done.map_err(|e| self.error("copying to", to, &e))? {
            Transfer::Shared
        } else if self.is_cached_with(source) {
            let (zero, failed) = copy::through_cache(&source.file, from, &self.file, to, len, unit).await;
            match failed {
                None => Transfer::Written { zero },
                Some((done, failed)) => {
                    let error = match failed {
                        copy::Failed::Read(at, e) => source.error("reading", at, &e).of_source(),
                        copy::Failed::Write(at, e) => self.error("writing", at, &e),
                    };
                    Transfer::Stopped { len: done, zero, error }
                }
            }
        } else {
            return Ok(None);
        };
        let len = if let Transfer::Stopped { len, .. } = &transfer { *len } else { len };
        self.bytes.grown(to + len);
        Ok(Some(transfer))
    }

    fn can_copy_from(&self, source: &dyn Source) -> bool {
        Self::behind(source).is_some_and(|source| self.copying.may_work() || self.is_cached_with(source))
    }

    async fn sync_name(&self) -> Result<()> {
        let folder = Path::new(&self.name).parent().filter(|p| !p.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).to_owned();
        let shown = folder.display().to_string();
        let done = executor::unconfined(move || File::open(&folder)?.sync_all()).await;
        done.map_err(|e| Error::io(format_args!("syncing the folder {shown}"), &e))
    }
}
