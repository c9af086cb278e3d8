//! A drive in memory, on a thread of its own, whose tray and reads the test controls.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::{Rc, Weak};

use block::tray::{Listener, TrayEvent};
use block::{Buf, Error, ErrorKind, Result};
use executor::sync::Event;
use executor::{Handle, Remote, Thread, yield_now};
use virtio_scsi::Backend;

type WeakListener = Weak<dyn Fn(TrayEvent)>;

#[derive(Default)]
pub struct FakeDrive {
    pub medium: RefCell<Option<Vec<u8>>>,
    pub open: Cell<bool>,
    pub locked: Cell<bool>,
    /// The error with which reads fail.
    pub fail: Cell<Option<ErrorKind>>,
    /// While set, reads wait.
    hold: Cell<bool>,
    held: Cell<usize>,
    closed: Cell<bool>,
    changed: Event,
    pub tickets: Cell<usize>,
    listeners: RefCell<Vec<WeakListener>>,
    /// Notified to end the thread.
    pub stop: Event,
}

pub struct Ticket(Rc<FakeDrive>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.tickets.set(self.0.tickets.get() - 1);
    }
}

thread_local! {
    static DRIVE: Rc<FakeDrive> = Rc::default();
}

fn local() -> Rc<FakeDrive> {
    DRIVE.with(Rc::clone)
}

impl FakeDrive {
    fn tell(&self, event: TrayEvent) {
        let listeners: Vec<_> = self.listeners.borrow().iter().filter_map(Weak::upgrade).collect();
        listeners.iter().for_each(|listener| listener(event));
    }

    /// Requests that the medium be ejected.
    pub fn ask_for_eject(&self) {
        self.tell(TrayEvent::EjectRequested);
    }

    pub fn listeners(&self) -> usize {
        self.listeners.borrow().iter().filter(|listener| listener.strong_count() > 0).count()
    }

    pub fn hold(&self, on: bool) {
        self.hold.set(on);
        self.changed.notify();
    }

    pub fn close_gate(&self, closed: bool) {
        self.closed.set(closed);
        self.changed.notify();
    }

    pub async fn wait_held(self: Rc<Self>, count: usize) {
        while self.held.get() < count {
            self.changed.wait().await;
        }
    }
}

impl Backend for FakeDrive {
    type Ticket = Ticket;

    fn size(&self) -> u64 {
        self.medium.borrow().as_ref().map_or(0, |medium| medium.len() as u64)
    }
    fn has_medium(&self) -> bool {
        self.medium.borrow().is_some()
    }
    fn is_open(&self) -> bool {
        self.open.get()
    }
    fn is_locked(&self) -> bool {
        self.locked.get()
    }
    fn set_locked(&self, locked: bool) {
        self.locked.set(locked);
    }
    fn move_tray(&self, open: bool) {
        self.open.set(open);
        self.tell(if open { TrayEvent::Opened } else { TrayEvent::Closed });
    }
    fn listen(&self, listener: &Listener) {
        self.listeners.borrow_mut().push(Rc::downgrade(listener));
    }
    async fn enter(self: &Rc<Self>) -> Ticket {
        while self.closed.get() {
            self.changed.wait().await;
        }
        self.tickets.set(self.tickets.get() + 1);
        Ticket(self.clone())
    }
    fn carry(_: &mut Ticket, _: u64) {}
    async fn read(&self, _: &Ticket, offset: u64, buf: Buf) -> Result<()> {
        self.held.set(self.held.get() + 1);
        self.changed.notify();
        while self.hold.get() {
            self.changed.wait().await;
        }
        self.held.set(self.held.get() - 1);
        if let Some(kind) = self.fail.get() {
            return Err(Error::new(kind, "as the test wished"));
        }
        let medium = self.medium.borrow();
        let offset = offset as usize;
        buf.copy_from(&medium.as_ref().expect("checked before")[offset..offset + buf.len()]);
        Ok(())
    }
}

#[derive(Clone)]
pub struct FakeHandle(Remote);

impl Handle for FakeHandle {
    type Target = FakeDrive;

    fn remote(&self) -> &Remote {
        &self.0
    }
    fn get(&self) -> Option<Rc<FakeDrive>> {
        Some(local())
    }
}

/// Returns a medium of `blocks` blocks with different content.
pub fn medium(blocks: usize) -> Vec<u8> {
    (0..blocks * 2048).map(|at| (at / 2048) as u8 ^ at as u8).collect()
}

/// Starts an empty drive on a new thread.
pub fn start() -> (Thread, FakeHandle) {
    let main = || async { local().stop.wait().await };
    let thread = Thread::start("drive", main).unwrap();
    let handle = FakeHandle(thread.remote().clone());
    (thread, handle)
}

impl FakeHandle {
    /// Runs a future with the drive on its thread and waits for it.
    pub fn run<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        f: impl FnOnce(Rc<FakeDrive>) -> F + Send + 'static,
    ) -> T {
        self.0.call(move || f(local())).wait().unwrap()
    }

    /// Calls a function with the drive on its thread.
    pub fn with<T: Send + 'static>(&self, f: impl FnOnce(&FakeDrive) -> T + Send + 'static) -> T {
        self.run(move |drive| async move { f(&drive) })
    }

    /// Lets the drive's thread do all that it can do by now, kicks included: each turn polls for events.
    pub fn settle(&self) {
        self.run(|_| async {
            for _ in 0..20 {
                yield_now().await;
            }
        });
    }

    /// Opens the tray, exchanges the medium and closes the tray, as a monitor does.
    pub fn change(&self, medium: Option<Vec<u8>>) {
        self.with(|drive| {
            if !drive.open.get() {
                drive.locked.set(false);
                drive.move_tray(true);
            }
            *drive.medium.borrow_mut() = medium;
            drive.move_tray(false);
        });
    }
}
