//! The machine: one value that the main loop drives.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use executor::sync::{self, Semaphore};
use executor::unblock;
use futures_util::future::{Either, join_all, select};
use virtio::Device;
use virtio::mmio::Transport;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::boot_parts::{BootParts, PendingBoot};
use crate::error::Error;
use crate::gate::{Gate, Wanted};
use crate::layout::{MAX_DEVICES, SERIAL_PORTS};
use crate::notice::{Event, Notices, Waiter};
use crate::screen::{Screen, Size};
use crate::serial::{Backend, Port, Running as SerialTask};
use crate::vcpu::Vcpus;

mod parts;
mod running;

use parts::Parts;
use running::Running;

/// A command line that suits a Linux guest of this machine: console on ttyS0, reset through the ACPI
/// register, reset at once after a panic, and no search for a PCI bus, since there is none.
/// `noreplace-smp`: a kernel that finds one CPU would spend a good part of its start on removing thousands
/// of lock prefixes from its own code. `cryptomgr.notests`: self-tests of ciphers would take another part.
pub const DEFAULT_CMDLINE: &str =
    "console=ttyS0 reboot=acpi panic=-1 pci=off noreplace-smp cryptomgr.notests";

/// The configuration of a machine, except for its devices and serial ports.
#[derive(Clone, Debug)]
pub struct Config {
    /// A bzImage or an ELF kernel.
    pub kernel: PathBuf,
    /// Its initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Its whole command line; [`DEFAULT_CMDLINE`] is a good one.
    pub cmdline: String,
    /// Number of vCPUs, 1 to 16.
    pub cpus: u32,
    /// Size of RAM in bytes, a multiple of 4 KiB and at least 32 MiB.
    pub memory: u64,
    /// The size of its screen, if it has one.
    pub screen: Option<Size>,
    /// The sandbox of vCPU threads, in which they may only do what a vCPU needs.
    pub sandbox: sandbox::Mode,
}

/// A machine's state in its life cycle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Created, but never started.
    Created,
    /// The vCPUs run.
    Running,
    /// Stopped by [`Machine::stop`]: vCPUs are parked, devices paused.
    Paused,
    /// The guest has ended itself, or has failed; [`Machine::reset`] starts it again.
    Ended,
    /// [`Machine::shutdown`] was called.
    Gone,
}

/// Sets the state to [`State::Ended`] when dropped, unless the reference is taken out before.
struct Ended<'a>(Option<&'a Cell<State>>);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if let Some(state) = self.0 {
            state.set(State::Ended);
        }
    }
}

/// A machine whose first start has begun, before it has devices and serial ports.
pub struct Prepared {
    boot_parts: Arc<BootParts>,
    pending: PendingBoot,
    sandbox: sandbox::Mode,
}

impl Prepared {
    /// Returns true if the kernel may be a Linux kernel. Some KVMs open but cannot run one; `kvm-probe`
    /// finds out.
    pub fn is_stock_kernel(&self) -> bool {
        self.boot_parts.is_stock_kernel()
    }
}

/// A virtual machine with its devices.
///
/// It belongs to the executor's thread on which it was made. Tasks of that executor may call any of its
/// methods at any time; methods that change the state wait for each other. No method blocks the thread.
/// Dropping the machine without [`Machine::shutdown`] blocks it until the vCPU threads have ended.
pub struct Machine {
    parts: Arc<Parts>,
    notices: Arc<Notices>,
    heard: Waiter,
    /// The start that [`Machine::prepare`] has begun, until [`Machine::start`] takes it.
    pending: RefCell<Option<PendingBoot>>,
    running: RefCell<Option<Rc<Running>>>,
    state: Cell<State>,
    /// True if devices are paused, and vCPUs are parked or will be after the next start or reset.
    paused: Cell<bool>,
    /// Lets only one method change the state at a time.
    changing: Rc<Semaphore>,
    /// True if the machine is about to end: a change of state does not wait for devices any more.
    leaving: Cell<bool>,
    left: sync::Event,
    serial_tasks: RefCell<Vec<SerialTask>>,
}

impl Machine {
    /// Opens and checks the files that `config` names, and begins to load the kernel and to create a VM,
    /// on threads of their own.
    ///
    /// # Errors
    /// Fails if the host has no usable KVM, if a file cannot be opened, or if `config` is invalid. Each
    /// error is one line.
    pub fn prepare(config: &Config) -> Result<Prepared, Error> {
        let boot_parts = BootParts::new(config)?;
        let pending = boot_parts.begin_boot()?;
        Ok(Prepared { boot_parts, pending, sandbox: config.sandbox })
    }

    /// Makes a machine that does not run yet. The guest sees the devices in the order of `devices`;
    /// `serial` gives the back ends of ttyS0 and ttyS1. Must be called in a task of the executor that is
    /// to be the machine's main loop.
    ///
    /// # Errors
    /// Fails if a device or a serial port cannot be used. Each error is one line.
    pub fn new(prepared: Prepared, devices: Vec<Box<dyn Device>>, serial: &[Backend]) -> Result<Self, Error> {
        let Prepared { boot_parts, pending, sandbox } = prepared;
        if devices.len() > MAX_DEVICES {
            return Err(Error::Devices(devices.len()));
        }
        if serial.len() > SERIAL_PORTS.len() {
            return Err(Error::Serial { port: SERIAL_PORTS.len(), reason: "a machine has two".into() });
        }
        if serial.iter().filter(|backend| **backend == Backend::Stdio).count() > 1 {
            return Err(Error::Serial { port: 1, reason: "stdio is taken by port 0".into() });
        }
        let transports = devices
            .into_iter()
            .enumerate()
            .map(|(index, device)| {
                Transport::new(device, boot_parts.memory.clone())
                    .map(Arc::new)
                    .map_err(|e| Error::Device { index, reason: e.to_string() })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let notices = Arc::new(Notices::new().map_err(Error::system("eventfd"))?);
        let mut ports = Vec::new();
        let mut tasks = Vec::new();
        for (index, backend) in serial.iter().enumerate() {
            let port = Port::new(*backend != Backend::Null).map_err(Error::system("serial port"))?;
            let port = Arc::new(port);
            let task = backend
                .start(port.clone(), notices.clone())
                .map_err(|reason| Error::Serial { port: index, reason })?;
            ports.push(port);
            tasks.push(task);
        }
        let parts = Parts {
            boot_parts,
            sandbox,
            transports,
            serial: ports,
            button: EventFd::new(EFD_NONBLOCK).map_err(Error::system("eventfd"))?,
        };
        Ok(Machine {
            parts: Arc::new(parts),
            heard: notices.signal.waiter().map_err(Error::system("eventfd"))?,
            notices,
            pending: RefCell::new(Some(pending)),
            running: RefCell::new(None),
            state: Cell::new(State::Created),
            paused: Cell::new(false),
            changing: Semaphore::new(1),
            leaving: Cell::new(false),
            left: sync::Event::new(),
            serial_tasks: RefCell::new(tasks),
        })
    }

    /// Returns guest memory, which lives as long as anyone holds a reference to it.
    pub fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.parts.boot_parts.memory
    }

    /// Returns its screen, which lives as long as anyone holds a reference to it.
    pub fn screen(&self) -> Option<&Arc<Screen>> {
        self.parts.boot_parts.screen.as_ref()
    }

    /// Returns the machine's state.
    pub fn state(&self) -> State {
        self.state.get()
    }

    /// Waits for the next event. Only one task may wait at a time. After an event that ends the guest
    /// ([`Event::PowerOff`], [`Event::Reset`], [`Event::TripleFault`], [`Event::Failed`], or
    /// [`Event::Panicked`] if the kernel also asked for a reset) no vCPU runs any more and the state is
    /// [`State::Ended`].
    pub async fn event(&self) -> Event {
        loop {
            if self.notices.is_empty() {
                self.heard.wait().await;
                continue;
            }
            // Popped last, so that dropping this future does not lose an event.
            self.settle().await;
            if let Some(event) = self.notices.pop() {
                return event;
            }
        }
    }

    /// If the guest has ended itself, waits until all vCPUs are parked and sets [`State::Ended`].
    async fn settle(&self) {
        let _changing = self.changing.acquire(1).await;
        if self.state.get() != State::Running {
            return;
        }
        if let Some(running) = self.current()
            && running.vcpus.closed()
        {
            running.vcpus.park().await;
            self.state.set(State::Ended);
        }
    }

    fn current(&self) -> Option<Rc<Running>> {
        self.running.borrow().clone()
    }

    /// Boots: waits for the start that [`Machine::prepare`] has begun, then lets the vCPUs run, unless the
    /// machine was stopped before.
    ///
    /// # Errors
    /// Fails with [`Error::Boot`] or [`Error::Kvm`], for example if the kernel does not fit into memory.
    /// The machine's state does not change then.
    pub async fn start(&self) -> Result<(), Error> {
        let _changing = self.changing.acquire(1).await;
        if self.state.get() != State::Created {
            return Err(Error::State("was started already"));
        }
        self.boot().await
    }

    /// Starts a guest, whose vCPUs run unless the machine is stopped.
    async fn boot(&self) -> Result<(), Error> {
        let boot_parts = &self.parts.boot_parts;
        let (wanted, state) = match self.paused.get() {
            true => (Wanted::Park, State::Paused),
            false => (Wanted::Run, State::Running),
        };
        let gate = Gate::new(boot_parts.cpus as usize, wanted).map_err(Error::system("eventfd"))?;
        let pending = self.pending.take().map_or_else(|| boot_parts.begin_boot(), Ok)?;
        let (vm, entry) = pending.wait().await?;
        let parts = self.parts.clone();
        let vm = unblock(move || parts.join(vm, &entry)).await?;
        let surroundings = self.parts.surroundings(gate, self.notices.clone());
        let vcpus = Vcpus::start(vm.vcpus, surroundings)?;
        if let Some(screen) = self.screen() {
            screen.follow(Some((vm.fd.clone(), vm.screen_slot)));
        }
        let clock = Cell::new(None);
        self.running.replace(Some(Rc::new(Running { vcpus, clock, vm: vm.fd })));
        self.state.set(state);
        Ok(())
    }

    /// Stops the guest. Waits until no vCPU runs and no request of any device is in flight. Returns true
    /// if this call stopped it, false if it is stopped already or was shut down. A guest that has ended or
    /// was not started stays stopped after the reset or the start.
    pub async fn stop(&self) -> bool {
        let _changing = self.changing.acquire(1).await;
        if self.paused.get() || self.state.get() == State::Gone {
            return false;
        }
        let stopped = self.unless_leaving(async {
            if let Some(running) = self.current() {
                running.vcpus.park().await;
                running.stop_clock();
                if running.vcpus.closed() {
                    self.state.set(State::Ended);
                }
            }
            self.pause_devices().await;
        });
        if stopped.await.is_none() {
            return false;
        }
        self.paused.set(true);
        if self.state.get() == State::Running {
            self.state.set(State::Paused);
        }
        true
    }

    /// Runs the part of a change of state that waits for devices, which may take forever. Returns `None`
    /// if the machine is to end meanwhile ([`Machine::halt`]).
    async fn unless_leaving<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let leaving = async {
            while !self.leaving.get() {
                self.left.wait().await;
            }
        };
        match select(pin!(work), pin!(leaving)).await {
            Either::Left((done, _)) => Some(done),
            Either::Right(_) => None,
        }
    }

    async fn pause_devices(&self) {
        let paused: Vec<_> = self.parts.transports.iter().map(|transport| transport.pause()).collect();
        for paused in paused {
            // A device whose thread has ended has nothing in flight.
            let _ = paused.await;
        }
    }

    /// Lets a stopped guest run again. Returns true if this call resumed it, false if it runs already.
    ///
    /// # Errors
    /// [`Error::State`] if the guest has ended, was never started or was shut down.
    pub async fn resume(&self) -> Result<bool, Error> {
        let _changing = self.changing.acquire(1).await;
        match self.state.get() {
            State::Running => return Ok(false),
            State::Paused => {}
            State::Created => return Err(Error::State("was not started")),
            State::Ended => return Err(Error::State("has ended: reset it")),
            State::Gone => return Err(Error::State("was shut down")),
        }
        self.resume_devices();
        if let Some(running) = self.current() {
            running.start_clock();
            running.vcpus.resume();
        }
        self.paused.set(false);
        self.state.set(State::Running);
        Ok(true)
    }

    fn resume_devices(&self) {
        for transport in &self.parts.transports {
            transport.resume();
        }
    }

    /// Restarts the machine from its kernel, in the same process: vCPUs end, devices finish their I/O and
    /// return to their power-on state, memory is zeroed and loaded anew. A stopped machine stays stopped.
    /// The state changes when the reset is complete.
    ///
    /// # Errors
    /// See [`Machine::start`]. The machine's state is then [`State::Ended`], and it may be reset again.
    pub async fn reset(&self) -> Result<(), Error> {
        let _changing = self.changing.acquire(1).await;
        match self.state.get() {
            State::Created => return Err(Error::State("was not started")),
            State::Gone => return Err(Error::State("was shut down")),
            _ => {}
        }
        // Sets the state also if this future is dropped half way.
        let mut ended = Ended(Some(&self.state));
        self.unless_leaving(self.end()).await.ok_or(Error::State("is shutting down"))?;
        self.notices.forget_guest();
        let parts = self.parts.clone();
        unblock(move || parts.clear()).await?;
        self.boot().await?;
        ended.0 = None;
        Ok(())
    }

    /// Ends the vCPUs, then waits until the devices' I/O has finished and stops them.
    async fn end(&self) {
        self.end_vcpus().await;
        join_all((0..self.parts.transports.len()).map(|index| self.still(index))).await;
    }

    async fn end_vcpus(&self) {
        if let Some(running) = self.current() {
            running.vcpus.end().await;
        }
        if let Some(screen) = self.screen() {
            screen.follow(None);
        }
        if let Some(Ok(Running { vm, .. })) = self.running.take().map(Rc::try_unwrap) {
            // Closing a VM waits for the kernel.
            unblock(move || drop(vm)).await;
        }
    }

    /// Stops device `index`: waits until none of its requests is in flight, and no new one begins
    /// afterwards. Must be called after [`Machine::halt`].
    pub async fn still(&self, index: usize) {
        let parts = self.parts.clone();
        unblock(move || {
            if let Some(transport) = parts.transports.get(index) {
                transport.reset();
            }
        })
        .await;
    }

    /// Presses the power button. The guest decides how to react to it.
    ///
    /// # Errors
    /// [`Error::State`] if no guest is running or paused.
    pub fn power_button(&self) -> Result<(), Error> {
        if !matches!(self.state.get(), State::Running | State::Paused) {
            return Err(Error::State("is not running"));
        }
        // Fails only when the counter is full, and then a press is on its way.
        let _ = self.parts.button.write(1);
        Ok(())
    }

    /// Makes [`Machine::shutdown`] wait for the output of another terminal too.
    pub fn attach(&self, terminal: SerialTask) {
        self.serial_tasks.borrow_mut().push(terminal);
    }

    /// Ends the vCPUs, and with them the guest, without waiting for devices.
    pub async fn halt(&self) {
        self.leaving.set(true);
        self.left.notify();
        let _changing = self.changing.acquire(1).await;
        self.state.set(State::Gone);
        self.end_vcpus().await;
    }

    /// Ends the machine: first vCPUs, then devices, then the serial ports once their output is written,
    /// which takes at most a second. Devices are dropped with the machine.
    pub async fn shutdown(&self) {
        self.halt().await;
        self.end().await;
        join_all(self.serial_tasks.take().into_iter().map(SerialTask::finish)).await;
    }
}
