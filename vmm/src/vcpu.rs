//! vCPU threads: they enter the guest, handle its exits and stop on request.

use std::cell::{Cell, RefCell};
use std::ptr;
use std::sync::{Arc, Once};
use std::thread::{Builder, JoinHandle};

use kvm_bindings::{KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_run};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::bus::Bus;
use crate::error::Error;
use crate::gate::{Gate, Seat, Wanted};
use crate::notice::{Event, Notices, Waiter};

thread_local! {
    /// `kvm_run.immediate_exit` of this thread's vCPU, for the signal handler.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// Takes the thread out of KVM_RUN, or keeps it from entering: a signal that comes just before
/// KVM_RUN would otherwise be lost (KVM API, "immediate_exit").
extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: set by `Kickable` to a byte of the vCPU's mapping, and null again before that is
        // unmapped. The handler runs on the thread that owns the vCPU, so nobody writes meanwhile.
        unsafe { flag.write_volatile(1) };
    }
}

/// A vCPU whose thread can be kicked while this lives.
struct Kickable(VcpuFd);

impl Kickable {
    fn new(mut vcpu: VcpuFd) -> Self {
        IMMEDIATE_EXIT.set(&raw mut vcpu.get_kvm_run().immediate_exit);
        Kickable(vcpu)
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}

/// The parts of the machine that vCPU threads use.
pub(crate) struct Surroundings {
    pub(crate) ports: Bus,
    pub(crate) mmio: Bus,
    pub(crate) gate: Arc<Gate>,
    pub(crate) notices: Arc<Notices>,
    pub(crate) sandbox: sandbox::Mode,
}

/// The running vCPUs. Dropping it ends and joins their threads.
pub(crate) struct Vcpus {
    gate: Arc<Gate>,
    out: Waiter,
    threads: RefCell<Vec<JoinHandle<()>>>,
}

impl Vcpus {
    /// Starts a thread for each vCPU, which waits at the gate. Must be called on the main loop.
    pub(crate) fn start(vcpus: Vec<VcpuFd>, surroundings: Surroundings) -> Result<Self, Error> {
        static HANDLER: Once = Once::new();
        let mut registered = Ok(());
        HANDLER.call_once(|| registered = register_signal_handler(SIGRTMIN(), on_kick));
        registered.map_err(|e| Error::system("vCPU signal")(e.into()))?;

        let gate = surroundings.gate.clone();
        let out = gate.signal.waiter().map_err(Error::system("vCPU signal"))?;
        let surroundings = Arc::new(surroundings);
        let all = Vcpus { gate: gate.clone(), out, threads: RefCell::default() };
        for (index, vcpu) in vcpus.into_iter().enumerate() {
            let (seat, surroundings) = (Seat(gate.clone()), surroundings.clone());
            let thread = Builder::new()
                .name(format!("vcpu{index}"))
                .spawn(move || run(index, Kickable::new(vcpu), &seat, &surroundings))
                .map_err(Error::system("vCPU thread"))?;
            all.threads.borrow_mut().push(thread);
        }
        Ok(all)
    }

    fn set(&self, wanted: Wanted) {
        self.gate.set(wanted);
        if wanted != Wanted::Run {
            for thread in &*self.threads.borrow() {
                // Fails only for a thread that has ended.
                let _ = thread.kill(SIGRTMIN());
            }
        }
    }

    pub(crate) fn resume(&self) {
        self.set(Wanted::Run);
    }

    /// Returns true if the guest has ended itself.
    pub(crate) fn closed(&self) -> bool {
        self.gate.closed()
    }

    /// Parks the vCPUs and waits until none is in the guest or in a device. One caller at a time.
    pub(crate) async fn park(&self) {
        self.set(Wanted::Park);
        self.all_out().await;
    }

    async fn all_out(&self) {
        while !self.gate.all_out() {
            self.out.wait().await;
        }
    }

    /// Ends the threads and waits for them. One caller at a time.
    pub(crate) async fn end(&self) {
        self.set(Wanted::End);
        self.all_out().await;
        let threads = self.threads.take();
        executor::unblock(move || join(threads)).await;
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        // A panic of a vCPU thread was reported when it happened.
        let _ = thread.join();
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.set(Wanted::End);
        join(self.threads.take());
    }
}

/// Reports a panic of a vCPU thread to the main loop; otherwise the machine would hang in silence.
struct Alarm<'a>(usize, &'a Surroundings);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.1.fail(format!("vCPU {}: its thread panicked", self.0));
        }
    }
}

impl Surroundings {
    fn end(&self, event: Event) {
        self.gate.close();
        self.notices.push(event);
    }

    fn fail(&self, reason: String) {
        self.end(Event::Failed(reason));
    }
}

fn run(index: usize, mut vcpu: Kickable, seat: &Seat, surroundings: &Surroundings) {
    let _alarm = Alarm(index, surroundings);
    let exits: *const kvm_run = vcpu.0.get_kvm_run();
    crate::confine(sandbox::Role::Vcpu, surroundings.sandbox);
    loop {
        // Cleared before the gate is checked: a later kick sets it again.
        vcpu.0.set_kvm_immediate_exit(0);
        let told = || {
            // Lets the guest know that it stood still, so that it does not take the gap for a lockup of
            // its own. KVM refuses while the guest has no clock.
            let _ = vcpu.0.kvmclock_ctrl();
        };
        if !seat.pass(told) {
            return;
        }
        let exit = match vcpu.0.run() {
            Ok(exit) => exit,
            // A kick, or a vCPU that waits for its start-up interrupt.
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => continue,
            Err(e) => {
                surroundings.fail(format!("vCPU {index}: KVM_RUN: {}", std::io::Error::from(e)));
                continue;
            }
        };
        // Size of an element of a port access, in bytes: a string instruction has several elements, and
        // the exit only gives their total size. SAFETY: the vCPU maps it and is not running, and the exit
        // reason, checked before each call, says that this member of the union is the valid one. The
        // exit's data lie behind it.
        let io_size = || usize::from(unsafe { (*exits).__bindgen_anon_1.io.size });
        match exit {
            VcpuExit::IoIn(port, data) => surroundings.ports.read_elements(port.into(), io_size(), data),
            VcpuExit::IoOut(port, data) => surroundings.ports.write_elements(port.into(), io_size(), data),
            VcpuExit::MmioRead(address, data) => surroundings.mmio.read(address, data),
            VcpuExit::MmioWrite(address, data) => surroundings.mmio.write(address, data),
            VcpuExit::Shutdown => surroundings.end(Event::TripleFault),
            VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => surroundings.end(Event::PowerOff),
            VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => surroundings.end(Event::Reset),
            VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _) => surroundings.end(Event::Panicked),
            // With the irqchip in the kernel, the kernel handles these, and they mean nothing here.
            VcpuExit::Hlt | VcpuExit::Intr | VcpuExit::IrqWindowOpen => {}
            VcpuExit::FailEntry(reason, cpu) => {
                surroundings.fail(format!(
                    "vCPU {index}: the processor refused to enter the guest: reason {reason:#x} on CPU {cpu}"
                ));
            }
            VcpuExit::InternalError => surroundings.fail(internal_error(index, &mut vcpu.0)),
            other => {
                let what = format!("{other:?}");
                surroundings.fail(format!("vCPU {index}: unexpected exit {what} at {}", place(&vcpu.0)));
            }
        }
    }
}

fn place(vcpu: &VcpuFd) -> String {
    match vcpu.get_regs() {
        Ok(regs) => format!("rip {:#x}", regs.rip),
        Err(e) => format!("an unknown place ({e})"),
    }
}

fn internal_error(index: usize, vcpu: &mut VcpuFd) -> String {
    // SAFETY: the exit reason says that this member of the union is the valid one, and it holds numbers only.
    let (suberror, count, data) = unsafe {
        let internal = &vcpu.get_kvm_run().__bindgen_anon_1.internal;
        (internal.suberror, internal.ndata, internal.data)
    };
    let what = match suberror {
        1 => {
            "it could not emulate an instruction; run `millrace host` to see whether this host's KVM runs stock kernels"
        }
        2 => "two exceptions at once",
        3 => "an exit while it delivered an event",
        4 => "an exit that it does not know",
        _ => "unknown",
    };
    let data = &data[..data.len().min(count as usize)];
    format!(
        "vCPU {index}: KVM internal error, suberror {suberror} ({what}) at {}, data {data:x?}",
        place(vcpu)
    )
}
