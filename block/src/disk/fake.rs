//! A disk in memory, on a thread of its own, whose gate, tray, completions and failures a test controls: the
//! other [`Front`], for tests of what stands before a disk. It panics if it is misused.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::mpsc::channel;

use executor::sync::{Event, OneSender, oneshot};
use executor::{Handle, Thread, yield_now};

use super::tray::{Tray, TrayEvent};
use super::{Front, PIECE};
use crate::image::Run;
use crate::{Buf, Error, ErrorKind, Result};

/// An operation that was requested from the disk, with its offset and length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A read.
    Read(u64, usize),
    /// A write.
    Write(u64, usize),
    /// A flush.
    Flush,
    /// A discard.
    Discard(u64, u64),
    /// A write of zeros, and true if it may unmap.
    WriteZeroes(u64, u64, bool),
}

/// A disk in memory. As a removable drive, it has a medium and a closed tray at first.
#[derive(Default)]
pub struct FakeDisk {
    /// Its content, or that of the medium.
    pub data: RefCell<Vec<u8>>,
    /// The tray.
    pub tray: Tray,
    /// True if there is no medium.
    pub is_empty: Cell<bool>,
    /// True if writes are refused.
    pub read_only: Cell<bool>,
    /// The operations so far.
    pub log: RefCell<Vec<Op>>,
    /// The error with which operations fail.
    pub fail: Cell<Option<ErrorKind>>,
    /// While set, operations wait for [`FakeDisk::release`].
    pub hold: Cell<bool>,
    held: RefCell<Vec<OneSender<()>>>,
    arrived: Event,
    closed: Cell<bool>,
    gate: Event,
    tickets: Cell<usize>,
    /// The maximum number of bytes that one ticket has carried.
    pub most_carried: Cell<u64>,
    drained: Event,
    /// Notified to end the thread.
    pub stop: Event,
}

/// A ticket, with the number of bytes that its request moves.
pub struct Ticket(Rc<FakeDisk>, u64);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.tickets.set(self.0.tickets.get() - 1);
        self.0.drained.notify();
    }
}

impl FakeDisk {
    async fn op(&self, op: Op) -> Result<()> {
        self.log.borrow_mut().push(op);
        if self.hold.get() {
            let (sender, receiver) = oneshot();
            self.held.borrow_mut().push(sender);
            self.arrived.notify();
            receiver.await;
        }
        match self.fail.get() {
            Some(kind) => Err(Error::new(kind, "as the test asked")),
            None => Ok(()),
        }
    }

    /// Ends the held operation number `index`, modulo their number.
    pub fn release(&self, index: usize) {
        let mut held = self.held.borrow_mut();
        if !held.is_empty() {
            let index = index % held.len();
            held.remove(index).send(());
        }
    }

    /// Ends all held operations, and holds no more.
    pub fn release_all(&self) {
        self.hold.set(false);
        for sender in self.held.take() {
            sender.send(());
        }
    }

    /// Waits until this many operations are held.
    pub async fn wait_held(self: Rc<Self>, count: usize) {
        while self.held.borrow().len() < count {
            self.arrived.wait().await;
        }
    }

    /// Closes the gate and waits until no ticket is left.
    pub async fn drain(self: Rc<Self>) {
        self.closed.set(true);
        while self.tickets.get() > 0 {
            self.drained.wait().await;
        }
    }

    /// Returns the number of tickets.
    pub fn tickets(&self) -> usize {
        self.tickets.get()
    }

    /// Opens the gate.
    pub fn open(&self) {
        self.closed.set(false);
        self.gate.notify();
    }

    /// Closes the gate.
    pub fn close(&self) {
        self.closed.set(true);
    }

    /// Exchanges the medium, and notifies nobody.
    pub fn put(&self, medium: Option<Vec<u8>>) {
        self.is_empty.set(medium.is_none());
        self.data.replace(medium.unwrap_or_default());
    }

    /// Opens the tray, exchanges the medium and closes the tray, as a monitor does.
    pub fn change(&self, medium: Option<Vec<u8>>) {
        if !self.tray.is_open() {
            self.tray.set_open(true);
        }
        self.put(medium);
        self.tray.set_open(false);
    }

    /// Asks the guest to eject the medium.
    pub fn ask_for_eject(&self) {
        self.tray.notify(TrayEvent::EjectRequested);
    }

    /// Returns the number of listeners of the tray.
    pub fn listeners(&self) -> usize {
        self.tray.listeners()
    }
}

impl Front for FakeDisk {
    type Ticket = Ticket;

    fn size(&self) -> u64 {
        self.data.borrow().len() as u64
    }

    fn read_only(&self) -> bool {
        self.read_only.get()
    }

    fn node_name(&self) -> String {
        "a leaf".into()
    }

    fn tray(&self) -> Option<&Tray> {
        Some(&self.tray)
    }

    fn has_medium(&self) -> bool {
        !self.is_empty.get()
    }

    fn try_enter(self: &Rc<Self>) -> Option<Ticket> {
        if self.closed.get() {
            return None;
        }
        self.tickets.set(self.tickets.get() + 1);
        Some(Ticket(self.clone(), 0))
    }

    async fn enter(self: &Rc<Self>) -> Ticket {
        loop {
            if let Some(ticket) = self.try_enter() {
                return ticket;
            }
            self.gate.wait().await;
        }
    }

    fn carry(ticket: &mut Ticket, bytes: u64) {
        ticket.1 = bytes;
        let most = &ticket.0.most_carried;
        most.set(most.get().max(bytes));
    }

    fn zero_piece(&self) -> u64 {
        PIECE
    }

    async fn read(&self, _: &Ticket, offset: u64, buf: Buf) -> Result<()> {
        self.op(Op::Read(offset, buf.len())).await?;
        let offset = offset as usize;
        buf.copy_from(&self.data.borrow()[offset..offset + buf.len()]);
        Ok(())
    }

    async fn write(&self, _: &Ticket, offset: u64, buf: Buf) -> Result<()> {
        self.op(Op::Write(offset, buf.len())).await?;
        let offset = offset as usize;
        buf.copy_to(&mut self.data.borrow_mut()[offset..offset + buf.len()]);
        Ok(())
    }

    async fn flush(&self, _: &Ticket) -> Result<()> {
        self.op(Op::Flush).await
    }

    async fn discard(&self, _: &Ticket, offset: u64, len: u64) -> Result<()> {
        self.op(Op::Discard(offset, len)).await
    }

    async fn write_zeroes(&self, _: &Ticket, offset: u64, len: u64, unmap: bool) -> Result<()> {
        self.op(Op::WriteZeroes(offset, len, unmap)).await?;
        self.data.borrow_mut()[offset as usize..(offset + len) as usize].fill(0);
        Ok(())
    }

    async fn map(&self, _: &Ticket, _: u64, len: u64) -> Result<Run> {
        Ok(Run { len, data: true, depth: 0, allocated: true })
    }
}

/// A test's way to the disk, which waits for the disk's thread.
#[derive(Clone)]
pub struct FakeHandle(Handle<FakeDisk>);

/// Starts a disk of `size` bytes on a new thread.
pub fn start(size: usize) -> (Thread, FakeHandle) {
    let (sender, handle) = channel();
    let main = move || async move {
        let data = (0..size).map(|at| (at / 512) as u8 ^ at as u8).collect();
        let disk = Rc::new(FakeDisk { data: RefCell::new(data), ..Default::default() });
        sender.send(Handle::new(&disk)).expect("the test waits");
        disk.stop.wait().await;
    };
    let thread = Thread::start("disk", main).expect("a thread");
    (thread, FakeHandle(handle.recv().expect("a disk")))
}

impl FakeHandle {
    /// Returns a handle as devices use it.
    pub fn handle(&self) -> Handle<FakeDisk> {
        self.0.clone()
    }

    /// Runs a future with the disk on its thread and waits for it.
    pub fn run<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        f: impl FnOnce(Rc<FakeDisk>) -> F + Send + 'static,
    ) -> T {
        self.0.submit(f).wait().expect("the disk's thread")
    }

    /// Calls a function with the disk on its thread.
    pub fn with<T: Send + 'static>(&self, f: impl FnOnce(&FakeDisk) -> T + Send + 'static) -> T {
        self.run(move |disk| async move { f(&disk) })
    }

    /// Lets the disk's thread do all that it can do by now, kicks included: each turn polls for events.
    pub fn settle(&self) {
        self.run(|_| async {
            for _ in 0..20 {
                yield_now().await;
            }
        });
    }
}
