//! The demo: copies a running guest's disk live to a new image, in the three steps of the 2011 design.
//! Afterwards the guest, QEMU's tools and the fate of the old image show whether the copy is right.

mod judge;
mod page;
mod screen;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use guest_agent::client::{Job, Load, Region, Stat};
use harness::programs::{Programs, enter_emulated_host, scratch};
use harness::{Failure, Options, STEP, Vm, qemu_img};
use qmp::command::QueryBlockStream;
use qmp::event::BlockSwitched;

use judge::Verdict;
use page::Page;
use screen::{Screen, mib};

const MIB: u64 = 1 << 20;
const DEVICE: &str = "/dev/vda";
const DISK: &str = "virtio0";
/// The port of VNC's display 0.
const VNC_PORT: u16 = 5900;

/// Copies a running guest's disk live, and proves that nothing was lost.
#[derive(Parser)]
struct Arguments {
    /// Size of the guest's disk in MiB; three quarters of it are filled.
    #[arg(long, value_name = "MIB", default_value_t = 128, value_parser = clap::value_parser!(u64).range(32..))]
    size: u64,
    /// Seconds that the guest works before and after the copy.
    #[arg(long, value_name = "N", default_value_t = 4)]
    seconds: u64,
    /// Show the copy on a web page, whose address is printed. A larger --seconds gives time to look.
    #[arg(long)]
    web: bool,
    /// Take a picture of that page in the middle of the copy, as PNG (needs chromium and chromium-driver).
    #[arg(long, value_name = "FILE", requires = "web")]
    picture: Option<PathBuf>,
    /// Show the guest's screen, with a login, by VNC at 127.0.0.1:DISPLAY, for as long as the guest runs.
    #[arg(long, value_name = "DISPLAY", value_parser = clap::value_parser!(u16).range(..=59635))]
    vnc: Option<u16>,
    /// Boot this kernel instead of Debian's.
    #[arg(long, value_name = "FILE", requires = "initrd")]
    kernel: Option<PathBuf>,
    /// Boot with this initramfs, whose init must be our guest agent.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match demonstrate(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("demo: {e}");
            ExitCode::FAILURE
        }
    }
}

fn demonstrate(arguments: &Arguments) -> Result<bool, Failure> {
    let page = arguments.web.then(Page::prepare).transpose()?;
    // The browser is outside of the emulated host.
    let picture = match (&page, &arguments.picture) {
        (Some(page), Some(file)) if !emulated_host::is_inside() => Some(page.picture(file)?),
        _ => None,
    };
    let own: Vec<PathBuf> = arguments.kernel.iter().chain(&arguments.initrd).cloned().collect();
    enter_emulated_host(|command| {
        if let Some(page) = &page {
            page.pass_on(command);
        }
        command.ports.extend(arguments.vnc.map(|display| display + VNC_PORT));
        // A user who wants to look around makes it work for longer.
        command.timeout = Duration::from_secs(300 + 2 * arguments.seconds.min(86_400));
        screen::pass_terminal(command);
        command.files.extend(own);
        if qemu_img::is_installed() {
            command.files.push("qemu-img".into());
        }
    })?;
    let good = run(arguments, page.as_ref())?;
    // Inside the emulated host there is none; outside, its process ends with the one inside.
    let pictured = picture.is_none_or(|picture| picture.join().unwrap_or(false));
    Ok(good && pictured)
}

/// The guest's workload in one phase.
struct Phase {
    name: &'static str,
    seconds: f64,
    bytes: u64,
    stat: Stat,
}

/// Measures the workload from one report to the next.
struct Meter {
    job: Job,
    bytes: u64,
    since: Instant,
}

impl Meter {
    fn phase(&mut self, vm: &mut Vm, name: &'static str) -> Result<Phase, Failure> {
        let stat = vm.agent()?.stat(self.job)?;
        let now = Instant::now();
        let phase =
            Phase { name, seconds: (now - self.since).as_secs_f64(), bytes: stat.bytes - self.bytes, stat };
        (self.bytes, self.since) = (phase.stat.bytes, now);
        Ok(phase)
    }
}

/// The base image, and the leaf that takes its place.
struct Images {
    base: PathBuf,
    leaf: PathBuf,
}

fn run(arguments: &Arguments, page: Option<&Page>) -> Result<bool, Failure> {
    let started = Instant::now();
    let mut programs = Programs::ready()?;
    if let (Some(kernel), Some(initrd)) = (&arguments.kernel, &arguments.initrd) {
        (programs.kernel, programs.initrd) = (kernel.clone(), initrd.clone());
    }
    let folder = scratch()?;
    let images = Images { base: folder.path().join("base.img"), leaf: folder.path().join("leaf.qcow2") };
    std::fs::File::create(&images.base)?.set_len(arguments.size * MIB)?;
    let mut screen = Screen::new();

    screen.begin("boot a Linux guest on millrace");
    let drive = format!("id={DISK},file={},format=raw", images.base.display());
    let mut more = page.map(Page::arguments).unwrap_or_default();
    let vnc = arguments.vnc.map(|display| format!("127.0.0.1:{display}"));
    more.extend(vnc.iter().flat_map(|place| ["--vnc".to_owned(), place.clone()]));
    if let Some(page) = page {
        println!("  the page is at {}", page.url()?);
    }
    let mut vm = Vm::start(&programs, folder.path(), &Options { cpus: 2, more, ..Options::new(&[drive]) })?;
    screen.done(if emulated_host::is_inside() {
        "on emulated KVM, so everything is slow"
    } else {
        "on this host's KVM"
    });
    if let Some(place) = &vnc {
        println!("  the guest's screen, where any name logs in: vncviewer {place}");
    }

    let filled = arguments.size * 3 / 4 * MIB;
    screen.begin(&format!("guest fills {} of its {} disk", mib(filled), mib(arguments.size * MIB)));
    vm.agent()?.fill(&Region::new(DEVICE, 0, filled, 1), 1)?;
    screen.done("");

    screen.begin("guest reads and writes at random");
    let load = Load { depth: 4, fsync_every: 100, read_percent: 50, ..Load::new(DEVICE) };
    let mut meter = Meter { job: vm.agent()?.random_write(&load)?, bytes: 0, since: Instant::now() };
    let work = Duration::from_secs(arguments.seconds);
    std::thread::sleep(work);
    let before = meter.phase(&mut vm, "before")?;
    screen.done("");

    let copied = live_copy(&mut vm, &programs, &images, &mut meter, &mut screen)?;
    let during = meter.phase(&mut vm, "during")?;

    let mut verdict = Verdict::default();
    let same_base = judge::hash(&images.base)? == copied.base_hash;
    verdict.add("the old image is unchanged since the switch", Ok(same_base));
    std::fs::remove_file(&images.base)?;
    screen.begin("old image deleted; guest keeps working");
    std::thread::sleep(work);
    let after = meter.phase(&mut vm, "after")?;
    // The old image was deleted during the whole phase.
    verdict.add("the guest keeps working without the old image", Ok(after.stat.latency.count > 0));
    screen.done("");

    screen.begin("guest verifies every block that it wrote");
    judge::guest(&mut vm, meter.job, &mut verdict)?;
    let size = arguments.size * MIB;
    let guest_hash = vm.agent()?.read_hash(DEVICE, 0, size)?;
    vm.agent()?.poweroff()?;
    vm.ended()?;
    screen.done("");
    judge::image(&programs, &images.leaf, &guest_hash, &mut verdict)?;

    println!();
    screen::table(&[before, during, after]);
    println!();
    println!("  switch blackout   {:.2} ms", copied.blackout.as_secs_f64() * 1e3);
    println!("  stream            {} in {:.2} s", mib(size), copied.time.as_secs_f64());
    println!("  new image         {} on disk", mib(judge::allocated(&images.leaf)?));
    println!();
    let good = verdict.print();
    println!();
    println!("{} ({:.0} s)", if good { "PASS" } else { "FAIL" }, started.elapsed().as_secs_f64());
    Ok(good)
}

/// The figures of the live copy.
struct Copied {
    blackout: Duration,
    time: Duration,
    /// The SHA-256 of the old image, right after the switch.
    base_hash: String,
}

/// The three steps of a live copy.
fn live_copy(
    vm: &mut Vm,
    programs: &Programs,
    images: &Images,
    meter: &mut Meter,
    screen: &mut Screen,
) -> Result<Copied, Failure> {
    screen.begin("1. create a new image, backed by the current one");
    create_leaf(programs, images)?;
    screen.done("");

    screen.begin("2. change: switch the disk to the new image");
    vm.change(DISK, &images.leaf, Some("qcow2"), false)?;
    let switched: BlockSwitched = vm.qmp.wait(Instant::now() + STEP)?;
    let blackout = Duration::from_micros(switched.blackout);
    screen.done(&format!("blackout {:.2} ms", blackout.as_secs_f64() * 1e3));
    let base_hash = judge::hash(&images.base)?;
    meter.phase(vm, "switch")?;

    screen.begin("3. block_stream: copy the old image's data");
    let began = Instant::now();
    vm.stream(DISK)?;
    loop {
        let streams = vm.qmp.execute(&QueryBlockStream {})?;
        let Some(stream) = streams.first() else { break };
        screen.progress(stream.offset, stream.len);
        std::thread::sleep(Duration::from_millis(50));
    }
    vm.stream_completed(STEP)?;
    let time = began.elapsed();
    screen.done("the old image is no longer needed");
    Ok(Copied { blackout, time, base_hash })
}

fn create_leaf(programs: &Programs, images: &Images) -> Result<(), Failure> {
    let backing = images.base.file_name().map(Path::new).ok_or("the base image has no file name")?;
    let status = Command::new(&programs.millrace)
        .args(["image", "create", "-f", "qcow2", "-F", "raw", "-b"])
        .arg(backing)
        .arg(&images.leaf)
        .status()?;
    if status.success() { Ok(()) } else { Err("millrace image create failed".into()) }
}
