//! A drive: a disk on its own thread, and the main loop's access to it.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use block::io::{Aio, Engine};
use block::storage::HostOpener;
use block::tray::{Listener, TrayEvent};
use block::{Disk, DiskHandle, Error, ErrorKind, chain};
use executor::{Remote, Thread};
use qmp::types::IoStatus;

use super::allowed::{Allowed, Exports};
use super::options;
use super::reports::Reporter;

/// A disk of the machine.
pub(super) struct Drive {
    pub options: options::Drive,
    pub handle: DiskHandle,
    /// Size in bytes when it was opened.
    pub size: u64,
    thread: Cell<Option<Thread>>,
    /// The first error that stopped the machine since it last ran.
    pub io_status: Cell<IoStatus>,
}

/// Waits until a thread that runs forever has ended, which means that it has panicked.
pub(super) fn lost(thread: &Remote) -> impl Future<Output = ()> + 'static {
    let waiting = thread.call(std::future::pending::<()>);
    async {
        // Fails when the thread ends.
        let _ = waiting.await;
    }
}

impl Drive {
    /// Starts the disk's thread, confined as `mode` says, and opens the disk's chain there. It opens no NBD
    /// exports but `exports`, and reports the events of the disk and its tray to `main`.
    pub(super) async fn open(
        options: options::Drive,
        mode: sandbox::Mode,
        exports: Exports,
        main: Reporter,
    ) -> block::Result<Rc<Self>> {
        let no_thread = |e| Error::io("starting a disk's thread", &e);
        let thread = Thread::start(&options.id, std::future::pending).map_err(no_thread)?;
        let wanted = options.clone();
        let opened = thread.remote().call(move || async move {
            let aio = if wanted.threads { Aio::Threads } else { Aio::IoUring };
            let files = HostOpener { engine: Engine::new(aio), direct: wanted.direct };
            let opener = Rc::new(Allowed { files, exports });
            vmm::confine(sandbox::Role::Disk, mode);
            let leaf = match wanted.file.as_str() {
                "" => None,
                file => Some(chain::open(&*opener, file, wanted.format, !wanted.read_only).await?),
            };
            let (main_of_tray, id) = (main.clone(), wanted.id.clone());
            let report = move |event| main.send(move |reports| reports.disk_event(event));
            let disk = match leaf {
                Some(leaf) if !wanted.cdrom => Disk::new(&wanted.id, leaf, wanted.read_only, opener, report),
                medium => Disk::removable(&wanted.id, medium, opener, report).await?,
            };
            let listener: Listener = Rc::new(move |event| {
                let open = match event {
                    TrayEvent::Opened => true,
                    TrayEvent::Closed => false,
                    TrayEvent::EjectRequested => return,
                };
                let id = id.clone();
                main_of_tray.send(move |reports| reports.tray_moved(id, open));
            });
            if let Ok(tray) = disk.tray() {
                tray.listen(&listener);
            }
            disk.set_copy_on_read(wanted.copy_on_read);
            disk.set_unmap(wanted.unmap);
            // Keeps the disk alive: all others only have handles.
            let kept = disk.clone();
            executor::spawn(async move {
                kept.closed().await;
                drop(listener);
            });
            Ok((disk.handle(), disk.size()))
        });
        let gone = |_| Error::new(ErrorKind::NotFound, "the disk's thread has ended");
        let (handle, size) = opened.await.unwrap_or_else(|e| Err(gone(e)))?;
        let (thread, io_status) = (Cell::new(Some(thread)), Cell::new(IoStatus::Ok));
        Ok(Rc::new(Drive { options, handle, size, thread, io_status }))
    }

    /// Makes the guest's device report changes of the disk's size.
    pub(super) async fn connect(&self, config: Arc<virtio_blk::Config>) -> block::Result<()> {
        let connect = move |disk: Rc<Disk>| async move {
            disk.on_capacity(move |size| config.capacity_changed(size));
            Ok(())
        };
        self.handle.call(connect).await
    }

    /// Waits until the disk's thread has ended, which happens only by a panic.
    pub(super) fn lost(&self) -> impl Future<Output = ()> + 'static {
        lost(self.handle.remote())
    }

    /// Closes the disk: stops its stream and makes everything durable that was acknowledged.
    pub(super) async fn close(&self) -> block::Result<()> {
        let result = self.handle.call(|disk| async move { disk.close().await }).await;
        // The thread ends with the process, since its executor waits forever.
        drop(self.thread.take());
        result
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use executor::Handle;
    use executor::{Executor, timeout};
    use qmp::Events;

    use super::*;
    use crate::reports::Reports;

    async fn open(folder: &std::path::Path, id: &str) -> Rc<Drive> {
        let file = folder.join(id);
        std::fs::write(&file, [1; 4096]).unwrap();
        let (id, file) = (id.to_owned(), file.display().to_string());
        let options = options::Drive { id, file, ..options::Drive::new() };
        let reports = Rc::new(Reports::new(Events::new()));
        let main = Handle::new(&reports);
        Drive::open(options, sandbox::Mode::Off, Exports::default(), main).await.unwrap()
    }

    #[test]
    fn a_disk_whose_thread_panics_is_missed_and_the_others_end_in_order() {
        let folder = tempfile::tempdir().unwrap();
        Executor::new().unwrap().block_on(async move {
            let (lost, kept) = (open(folder.path(), "lost").await, open(folder.path(), "kept").await);
            let (missed, alive) = (lost.lost(), kept.lost());
            let call = lost.handle.call(|_| async { panic!("a test") });
            assert!(block::Result::<()>::is_err(&call.await));
            timeout(Duration::from_secs(60), missed).await.unwrap();
            assert!(lost.close().await.is_err());
            kept.close().await.unwrap();
            assert!(timeout(Duration::from_millis(1), alive).await.is_none());
        });
    }
}
