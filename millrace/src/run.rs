//! `millrace run`: from options to a running machine, and to its end.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use executor::Handle;
use executor::{Executor, Remote, Reply};
use futures_util::future::{Either, select, try_join};
use kvm_probe::Kvm;
use nbd::Credentials;
use qmp::event;
use qmp::types::ShutdownCause;
use qmp::{Events, Listener, Monitor};
use virtio::Device;
use virtio_blk::{ErrorPolicy, VirtioBlk};
use virtio_scsi::VirtioScsi;

use super::Failure;
use super::allowed::Exports;
use super::boot;
use super::console;
use super::control::{Control, End, flights};
use super::devices;
use super::drive::{Drive, lost};
use super::end;
use super::io_errors::IoErrors;
use super::options::{MachineKind, OnReset, Run, TextMonitor, TlsCreds, Vnc};
use super::pidfile;
use super::reports::{Reporter, Reports};
use super::screen::{self, Screen};
use super::signals::{BlockedSignals, Signals};
use super::user::NewUser;
use super::web;
use vmm::notice::Waiter;
use vmm::serial::Backend;
use vmm::{Config, Event, Machine, Prepared};

/// Runs until the guest, a client, the user or a signal ends it.
pub(super) fn run(options: Run, signals: BlockedSignals) -> Result<ExitCode, Failure> {
    let signals = signals.watch().map_err(|e| format!("signals: {e}"))?;
    // Before this program can start no others any more. It ends with this process.
    let _page = web::start(&options)?;
    // The thread of the log runs already, and is confined too.
    vmm::confine_program(options.sandbox.into());
    // Continues while everything else is opened. If that fails as well, its error is reported.
    let begun = match options.machine {
        MachineKind::None => None,
        MachineKind::Kvm => Some(prepare(&options)),
    };
    // Sockets first: errors there are errors of the command line.
    let listeners = options.qmp.iter().map(Listener::bind).collect::<Result<Vec<_>, _>>();
    let listeners = listeners.map_err(|e| e.to_string())?;
    let credentials = credentials(&options.tls_creds)?;
    if options.monitor == Some(TextMonitor::Stdio) && options.serial.contains(&Backend::Stdio) {
        return Err("--monitor stdio and --serial stdio exclude each other".into());
    }
    let text = match &options.monitor {
        Some(TextMonitor::Socket(address)) => Some(Listener::bind(address).map_err(|e| e.to_string())?),
        _ => None,
    };
    let screen =
        options.vnc.as_ref().map(|vnc| open_screen(vnc, options.machine, &credentials)).transpose()?;
    let folders = options.allow_dir.clone();
    let confine = move || if folders.is_empty() { Ok(()) } else { sandbox::allow_only(&folders) };
    let confined =
        executor::start_unconfined_pool(confine).map_err(|e| format!("a thread that opens files: {e}"))?;
    confined.map_err(|e| format!("--allow-dir: {e}"))?;
    let executor = Executor::new().map_err(|e| format!("event loop: {e}"))?;
    let _pid_file = options.pidfile.as_deref().map(pidfile::write).transpose()?;
    let waiting = Waiting { listeners, text, screen, signals, credentials };
    executor.block_on(async move { main(options, begun, waiting).await })
}

/// Opens the socket of `--vnc`.
fn open_screen(
    vnc: &Vnc,
    machine: MachineKind,
    credentials: &BTreeMap<String, Credentials>,
) -> Result<screen::Waiting, Failure> {
    if machine == MachineKind::None {
        return Err("--vnc: without a guest there is no screen".into());
    }
    let credentials = match &vnc.tls_creds {
        None => None,
        Some(id) => {
            let found = credentials.get(id).cloned();
            Some(found.ok_or_else(|| format!("--vnc: no --tls-creds has the id '{id}'"))?)
        }
    };
    let listener = Listener::bind(&vnc.address).map_err(|e| format!("--vnc: {e}"))?;
    Ok(screen::Waiting { listener, password: vnc.password, credentials })
}

fn credentials(options: &[TlsCreds]) -> Result<BTreeMap<String, Credentials>, Failure> {
    let mut all = BTreeMap::new();
    for one in options {
        let loaded = Credentials::load(&one.folder, one.verify_peer);
        let loaded = loaded.map_err(|e| format!("TLS credentials '{}': {e}", one.id))?;
        if all.insert(one.id.clone(), loaded).is_some() {
            return Err(format!("two TLS credentials have the id '{}'", one.id));
        }
    }
    Ok(all)
}

/// The parts that are opened before the executor, for use on it.
struct Waiting {
    listeners: Vec<Listener>,
    text: Option<Listener>,
    screen: Option<screen::Waiting>,
    signals: Arc<Signals>,
    credentials: BTreeMap<String, Credentials>,
}

/// Everything that the command line names, open.
struct Ready {
    machine: Option<Rc<Machine>>,
    control: Rc<Control>,
    monitor: Rc<Monitor>,
    signalled: Waiter,
}

async fn main(
    options: Run,
    begun: Option<Result<Begun, Failure>>,
    waiting: Waiting,
) -> Result<ExitCode, Failure> {
    let mut drives = Vec::new();
    match make_ready(&options, begun, waiting, &mut drives).await {
        Ok(ready) => ready.serve(&options).await,
        Err(failure) => match end::close_drives(&drives).await {
            Ok(()) => Err(failure),
            Err(more) => Err(format!("{failure}; {more}")),
        },
    }
}

/// Opens the drives and adds each to `drives` when it is open, builds the machine, and lets clients in.
async fn make_ready(
    options: &Run,
    begun: Option<Result<Begun, Failure>>,
    waiting: Waiting,
    drives: &mut Vec<Rc<Drive>>,
) -> Result<Ready, Failure> {
    let Waiting { listeners, text, screen, signals, credentials } = waiting;
    let user = options.user.as_deref().map(NewUser::find).transpose()?;
    let events = Events::new();
    let reports = Rc::new(Reports::new(events.clone()));
    let main = Handle::new(&reports);
    let (prepared, suits) = match begun {
        None => (None, None),
        Some(Ok(begun)) => (Some(Ok(begun.prepared)), begun.suits),
        Some(Err(failure)) => (Some(Err(failure)), None),
    };
    let opening = async {
        open_drives(options, &main, &mut *drives).await?;
        let io_errors = Arc::new(IoErrors::new(main.clone()));
        let machine = match prepared {
            None => None,
            Some(prepared) => Some(build(options, prepared?, drives, &io_errors, screen, &main).await?),
        };
        Ok((machine, io_errors))
    };
    let ((), (machine, io_errors)) = try_join(suitable(suits), opening).await?;
    let (machine, devices, screen) = match machine {
        Some(Built { machine, devices, screen }) => (Some(Rc::new(machine)), Some(devices), screen),
        None => (None, None, None),
    };
    // Everything that the command line names is open by now, and no guest has run.
    if let Some(user) = user {
        user.enter()?;
    }
    if machine.is_none() && options.qmp.is_empty() && options.monitor.is_none() {
        return Err("there is nothing to do: without a guest, give --qmp or --monitor".into());
    }
    let signalled = signals.waiter().map_err(|e| format!("eventfd: {e}"))?;
    let control = Rc::new(Control::new(drives.clone(), machine.clone(), screen, reports, io_errors));
    control.exports.add_credentials(credentials);
    control.chardevs.replace(flights::chardevs(options, default_serial(options)));
    let monitor = Rc::new(Monitor::new(control.clone(), events));
    // Promises to clients are kept from here on: a signal ends the program in order.
    signals.serve();
    for listener in listeners {
        monitor.listen(listener).map_err(|e| format!("QMP socket: {e}"))?;
    }
    if let Some(listener) = text {
        monitor.listen_text(listener).map_err(|e| format!("monitor socket: {e}"))?;
    }
    if options.monitor == Some(TextMonitor::Stdio) {
        console::start(&monitor)?;
    }
    if let Some(thread) = &devices {
        end_with(&control, lost(thread), "the thread of the guest's devices panicked".into());
    }
    for drive in &control.drives {
        end_with(&control, drive.lost(), format!("disk '{}': its thread panicked", drive.options.id));
    }
    Ok(Ready { machine, control, monitor, signalled })
}

/// Ends the program with an error when `lost` ends: the thread's work for the guest has ended with it, and
/// nothing else would report that. The other disks are closed in order.
fn end_with(control: &Rc<Control>, lost: impl Future<Output = ()> + 'static, why: String) {
    let control = control.clone();
    executor::spawn(async move {
        lost.await;
        control.end(End::Broken(why));
    });
}

async fn open_drives(options: &Run, main: &Reporter, drives: &mut Vec<Rc<Drive>>) -> Result<(), Failure> {
    let exports = Exports::of(options).map_err(|e| e.to_string())?;
    for drive in options.drive.iter().chain(&options.cdrom) {
        if drives.iter().any(|other| other.options.id == drive.id) {
            return Err(format!("two drives have the id '{}'", drive.id));
        }
        let (mode, exports) = (options.sandbox.into(), exports.clone());
        let drive = Drive::open(drive.clone(), mode, exports, main.clone()).await;
        drives.push(drive.map_err(|e| e.to_string())?);
    }
    Ok(())
}

/// Waits until it is known if this host's KVM runs the kernel, and fails if it does not.
async fn suitable(answer: Option<Reply<Kvm>>) -> Result<(), Failure> {
    let Some(answer) = answer else { return Ok(()) };
    match answer.await {
        Ok(kvm) if !kvm.is_usable() => Err(format!(
            "{kvm}: boot guests on a host with hardware virtualization (vmx or svm in /proc/cpuinfo), or run disks \
             alone with --machine none"
        )),
        // A probe that panicked has been logged; starting the guest is the better test.
        _ => Ok(()),
    }
}

impl Ready {
    /// Starts the guest, serves it and its disks until something ends the program, and then ends everything.
    async fn serve(self, options: &Run) -> Result<ExitCode, Failure> {
        let Ready { machine, control, monitor, signalled } = self;
        let ending = control.clone();
        executor::spawn(async move {
            signalled.wait().await;
            ending.end(End::Quit(ShutdownCause::HostSignal));
        });
        let reporting = control.clone();
        executor::spawn(async move { reporting.report_io_errors().await });
        let guest = async {
            match &machine {
                Some(machine) => guest_life(machine, &control, options).await,
                None => std::future::pending().await,
            }
        };
        let end = match select(pin!(guest), pin!(control.ended())).await {
            Either::Left((end, _)) | Either::Right((end, _)) => end,
        };
        end::close(end, machine.clone(), &control, &monitor).await
    }
}

/// A machine whose first start has begun.
struct Begun {
    prepared: Prepared,
    /// The probe of this host's KVM, if it is in doubt that it runs this kernel.
    suits: Option<Reply<Kvm>>,
}

fn prepare(options: &Run) -> Result<Begun, Failure> {
    let boot = boot::choose(options)?;
    let config = Config {
        kernel: boot.kernel,
        initrd: boot.initrd,
        cmdline: options.cmdline(),
        cpus: options.cpus,
        memory: options.memory,
        screen: options.vnc.as_ref().map(|_| options.display),
        sandbox: options.sandbox.into(),
    };
    let prepared = Machine::prepare(&config).map_err(|e| e.to_string())?;
    let probe = || executor::spawn_thread("probe", || kvm_probe::kvm().clone());
    let suits = prepared.is_stock_kernel().then(probe).transpose();
    Ok(Begun { suits: suits.map_err(|e| format!("a thread: {e}"))?, prepared })
}

/// A machine, the thread of its devices other than drives, and its screen.
struct Built {
    machine: Machine,
    devices: Remote,
    screen: Option<Rc<Screen>>,
}

/// Makes the machine with its devices and its screen.
async fn build(
    options: &Run,
    prepared: Prepared,
    drives: &[Rc<Drive>],
    io_errors: &Arc<IoErrors>,
    screen: Option<screen::Waiting>,
    main: &Reporter,
) -> Result<Built, Failure> {
    let mut devices: Vec<Box<dyn Device>> = Vec::new();
    for drive in drives {
        if drive.options.cdrom {
            devices.push(Box::new(VirtioScsi::device(drive.handle.clone(), &drive.options.id)));
            continue;
        }
        let (io_errors, id) = (io_errors.clone(), drive.options.id.clone());
        let device = VirtioBlk::device(
            drive.handle.clone(),
            virtio_blk::Options {
                size: drive.size,
                read_only: drive.options.read_only,
                serial: drive.options.serial.clone(),
                queues: drive.options.queues,
                errors: ErrorPolicy {
                    read: drive.options.on_read_error,
                    write: drive.options.on_write_error,
                    listener: Arc::new(move |error| io_errors.push(&id, error)),
                },
            },
        );
        drive.connect(device.model().shared_config()).await.map_err(|e| e.to_string())?;
        devices.push(Box::new(device));
    }
    // Added behind the drives, whose names in the guest follow their order.
    let others = devices::start(options)?;
    devices.extend(others.devices);
    let serial = if options.serial.is_empty() { default_serial(options) } else { &options.serial };
    let machine = Machine::new(prepared, devices, serial).map_err(|e| e.to_string())?;
    others.terminals.into_iter().for_each(|terminal| machine.attach(terminal));
    let screen = match (screen, machine.screen().cloned(), others.hands) {
        (Some(waiting), Some(frame), Some(hands)) => {
            let mode = options.sandbox.into();
            Some(Rc::new(Screen::start(waiting, frame, hands, mode, main.clone()).await?))
        }
        _ => None,
    };
    Ok(Built { machine, devices: others.thread, screen })
}

/// The serial ports of a machine for which none are given.
fn default_serial(options: &Run) -> &'static [Backend] {
    match options.monitor {
        Some(TextMonitor::Stdio) => &[Backend::Null],
        _ => &[Backend::Stdio],
    }
}

/// Starts the machine and serves its events until one of them ends the program.
async fn guest_life(machine: &Rc<Machine>, control: &Control, options: &Run) -> End {
    if let Err(e) = machine.start().await {
        return End::Broken(e.to_string());
    }
    // The machine is stopped if `stop` came before its start.
    control.emit_run_state();
    loop {
        match machine.event().await {
            Event::PowerOff => return End::Guest(ShutdownCause::GuestShutdown),
            Event::Reset if options.on_reset == OnReset::Exit => {
                return End::Guest(ShutdownCause::GuestReset);
            }
            Event::Reset => {
                if let Err(e) = machine.reset().await {
                    return End::Broken(e.to_string());
                }
                control.events.emit(&event::Reset { guest: true, reason: ShutdownCause::GuestReset });
                control.emit_run_state();
            }
            Event::Panicked => return End::Failed("the guest's kernel panicked".into()),
            Event::TripleFault => return End::Failed("the guest ended in a triple fault".into()),
            Event::Failed(why) => return End::Broken(why),
            Event::Quit => return End::Quit(ShutdownCause::HostUi),
        }
    }
}
