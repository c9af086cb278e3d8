//! The command line.
#![allow(rustdoc::broken_intra_doc_links, reason = "clap shows these comments as they are")]

use std::path::PathBuf;

use block::Kind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use virtio_blk::OnError;
use vmm::serial::Backend;

mod net;

pub(super) use net::Net;

/// Boots a guest whose disks move to other images while it runs.
#[derive(Parser)]
#[command(name = "millrace", version, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Runs a machine, or just its disks.
    Run(Box<Run>),
    /// Creates images and looks at them.
    #[command(subcommand, arg_required_else_help = true)]
    Image(Image),
    /// Says what this host offers guests and images, and what follows.
    Host {
        /// The folder whose file system is tried.
        #[arg(default_value = ".")]
        folder: PathBuf,
    },
    /// Sends a command to a monitor and prints its answer; without a command, a shell.
    Qmp {
        /// The monitor: unix:PATH, tcp:HOST:PORT or a path.
        socket: String,
        /// A command, and its arguments as KEY=VALUE; a dotted key names a member of an argument.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Shows the progress of all jobs, and what every disk does.
    Watch {
        /// The monitor: unix:PATH, tcp:HOST:PORT or a path.
        socket: String,
        /// Looks once and ends.
        #[arg(long)]
        once: bool,
    },
}

/// What holds the guest.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum MachineKind {
    /// A virtual machine on KVM.
    Kvm,
    /// No guest: disks, jobs and the monitor only.
    None,
}

/// What a guest's reset does.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OnReset {
    /// Starts the machine again.
    Restart,
    /// Ends the program.
    Exit,
}

/// How threads are confined.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Sandbox {
    /// As far as the kernel can.
    On,
    /// As on, and a call that is not allowed ends the program.
    Strict,
    /// Not at all.
    Off,
}

impl From<Sandbox> for sandbox::Mode {
    fn from(sandbox: Sandbox) -> Self {
        match sandbox {
            Sandbox::On => sandbox::Mode::On,
            Sandbox::Strict => sandbox::Mode::Strict,
            Sandbox::Off => sandbox::Mode::Off,
        }
    }
}

#[derive(Args)]
pub(super) struct Run {
    /// What holds the guest.
    #[arg(long, value_enum, default_value = "kvm")]
    pub machine: MachineKind,
    /// A Linux kernel: bzImage or ELF. Without one, that which 'cargo run -p guest-images -- kernel' has made
    /// ready, with an initial RAM disk that mounts the first disk with a root file system.
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Its initial RAM disk.
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Its command line.
    #[arg(long, value_name = "TEXT", default_value = vmm::DEFAULT_CMDLINE)]
    pub cmdline: String,
    /// vCPUs, 1 to 16.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub cpus: u32,
    /// RAM; K, M, G, T are powers of 1024.
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = size)]
    pub memory: u64,
    /// A disk: id=ID,file=PATH,format=raw|qcow2|qed[,readonly=on|off][,copy-on-read=on|off]
    /// [,cache=writeback|none][,aio=io_uring|threads][,discard=ignore|unmap][,serial=TEXT][,queues=N]
    /// [,werror=report|stop|ignore|enospc][,rerror=report|stop|ignore]. The first is the guest's /dev/vda.
    /// werror and rerror say what an error of its image does to a guest's write or flush, and to its read:
    /// the guest is told (report), the machine stops and 'cont' tries again (stop), the guest is told of
    /// success (ignore); enospc: stop where space is wanting, else report. Defaults: enospc and report.
    /// discard=unmap, the default, gives back the space of what the guest discards; ignore keeps it.
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = drive)]
    pub drive: Vec<Drive>,
    /// A removable drive, read-only: id=ID[,file=PATH]; without a file it is empty.
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = cdrom)]
    pub cdrom: Vec<Drive>,
    /// A network interface: tap=NAME[,mac=ADDRESS], on the host's tap interface NAME, or
    /// passt=SOCKET[,mac=ADDRESS], on the network stack in user space that listens at SOCKET and needs no
    /// rights (passt --socket SOCKET). The first is the guest's eth0.
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = net::parse)]
    pub net: Vec<Net>,
    /// TLS for the NBD server: id=ID,dir=PATH[,verify-peer=on|off]. The folder holds server-cert.pem and
    /// server-key.pem, and ca-cert.pem, whose clients alone are let in unless verify-peer=off.
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = tls_creds)]
    pub tls_creds: Vec<TlsCreds>,
    /// A QMP socket: unix:PATH or tcp:HOST:PORT. Here, as for all sockets, a comma in a path is doubled, and
    /// QEMU's ',server=on,wait=off' may follow.
    #[arg(long, value_name = "SOCKET")]
    pub qmp: Vec<qmp::Address>,
    /// The text monitor: stdio or unix:PATH.
    #[arg(long, value_name = "WHERE")]
    pub monitor: Option<TextMonitor>,
    /// A serial port: stdio, null, file:PATH or unix:PATH. Twice: ttyS0 and ttyS1. Default: stdio,
    /// or null where the monitor is there.
    #[arg(long, value_name = "WHERE")]
    pub serial: Vec<Backend>,
    /// A virtio console, which is faster than a serial port: unix:PATH. The first is the guest's /dev/hvc0.
    #[arg(long, value_name = "WHERE", value_parser = console)]
    pub console: Vec<PathBuf>,
    /// What a guest's reset does.
    #[arg(long, value_enum, default_value = "restart")]
    pub on_reset: OnReset,
    /// Confines threads: vCPU, disk and device threads may make only the system calls that they need, and no
    /// thread may start programs or reach other processes. A call that is not allowed fails (on) or ends the
    /// program (strict).
    #[arg(long, value_enum, default_value = "on")]
    pub sandbox: Sandbox,
    /// A folder that images, their backing files and NBD server sockets may lie below; may be given several
    /// times. Without one, they lie anywhere. With one, NBD exports are opened only if --drive, --cdrom or
    /// --allow-uri names them.
    #[arg(long, value_name = "PATH")]
    pub allow_dir: Vec<PathBuf>,
    /// An NBD export that may be opened beside those of --drive and --cdrom, and no others:
    /// nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH; may be given several times.
    #[arg(long, value_name = "URI")]
    pub allow_uri: Vec<String>,
    /// Becomes this user before the guest starts, with root's files still open; for a program that root has
    /// started. A later 'change' opens what this user may. Sockets become this user's; they stay behind at
    /// the end in folders that this user may not write to, and the next start replaces them.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// A file for the process ID. It is refused if a running program holds it; a file that was left over is
    /// replaced.
    #[arg(long, value_name = "PATH")]
    pub pidfile: Option<PathBuf>,
}

/// Where the text monitor is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum TextMonitor {
    /// On standard input and output.
    Stdio,
    /// On a socket, for any number of clients.
    Socket(qmp::Address),
}

impl std::str::FromStr for TextMonitor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "stdio" => Ok(TextMonitor::Stdio),
            Ok(address @ qmp::Address::Unix(_)) => Ok(TextMonitor::Socket(address)),
            Err(e @ qmp::AddressError::Option(..)) => Err(e.to_string()),
            _ => Err(format!("'{text}' is not a place for a monitor: give stdio or unix:PATH")),
        }
    }
}

/// One `--drive`.
#[derive(Clone, Debug)]
pub(super) struct Drive {
    pub id: String,
    pub file: String,
    pub format: Kind,
    pub read_only: bool,
    pub copy_on_read: bool,
    pub direct: bool,
    pub threads: bool,
    /// Whether the space of what the guest discards is given back.
    pub unmap: bool,
    pub serial: String,
    pub queues: u16,
    /// What an error of the image does to a guest's request that is no read.
    pub on_write_error: OnError,
    /// The same of a read; never [`OnError::Enospc`].
    pub on_read_error: OnError,
    /// A removable drive, empty where `file` is.
    pub cdrom: bool,
}

/// One `--tls-creds`.
#[derive(Clone, Debug)]
pub(super) struct TlsCreds {
    pub id: String,
    pub folder: PathBuf,
    pub verify_peer: bool,
}

#[derive(Subcommand)]
pub(super) enum Image {
    /// Creates an image.
    Create {
        /// Its format.
        #[arg(short, value_name = "FORMAT")]
        format: Kind,
        /// The backing file, as the image will record it.
        #[arg(short, value_name = "FILE", requires = "backing_format")]
        backing: Option<String>,
        /// The backing file's format.
        #[arg(short = 'F', value_name = "FORMAT", requires = "backing")]
        backing_format: Option<Kind>,
        /// All formats: size=SIZE. raw: preallocation=off|falloc|full. qcow2: cluster_size=SIZE,
        /// extended_l2=on|off, refcount_bits=N, lazy_refcounts=on|off, compat=0.10|1.1,
        /// compression_type=zlib|zstd, preallocation=off|metadata|falloc|full. qed: cluster_size=SIZE,
        /// table_size=N. qcow2 and qed: backing_file=FILE,backing_fmt=FORMAT, as -b and -F. 'help' lists
        /// those of the format.
        #[arg(short, value_name = "KEY=VALUE,...")]
        options: Vec<String>,
        /// The new image.
        #[arg(required_unless_present = "options")]
        file: Option<String>,
        /// Size of the disk; without one, the backing file's.
        #[arg(value_parser = size)]
        size: Option<u64>,
    },
    /// Says what an image is.
    Info {
        /// Its format.
        #[arg(short, value_name = "FORMAT")]
        format: Kind,
        /// For programs.
        #[arg(long)]
        json: bool,
        /// Looks at an image that is in use, too, which may be found half changed.
        #[arg(short = 'U', long = "force-share")]
        share: bool,
        /// The image.
        file: String,
    },
    /// Looks for errors in an image's metadata. Exits with 0: none, 2: corruptions, 3: only leaked
    /// clusters, 63: the format has no checks, 1: it could not be checked.
    Check {
        /// Its format.
        #[arg(short, value_name = "FORMAT")]
        format: Kind,
        /// For programs.
        #[arg(long)]
        json: bool,
        /// Repairs what was found.
        #[arg(long, value_name = "WHAT")]
        repair: Option<Repair>,
        /// Looks at an image that is in use, too, which may be found half changed.
        #[arg(short = 'U', long = "force-share")]
        share: bool,
        /// The image.
        file: String,
    },
    /// Tells what the image and those behind it hold where.
    Map {
        /// Its format.
        #[arg(short, value_name = "FORMAT")]
        format: Kind,
        /// For programs, as `qemu-img map --output=json` prints it.
        #[arg(long)]
        json: bool,
        /// Looks at an image that is in use, too, which may be found half changed.
        #[arg(short = 'U', long = "force-share")]
        share: bool,
        /// The image.
        file: String,
    },
}

/// What `image check` may change.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Repair {
    /// Refcounts that are too high.
    Leaks,
    /// All that can be made sound.
    All,
}

/// A number of bytes: K, M, G and T are powers of 1024, and what they follow may have decimals.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a size: give a number of bytes, or one with K, M, G or T");
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, unit)) if unit.is_ascii_alphabetic() => {
            let shift = match unit.to_ascii_uppercase() {
                'K' => 10,
                'M' => 20,
                'G' => 30,
                'T' => 40,
                _ => return Err(wrong()),
            };
            (&text[..at], shift)
        }
        _ => (text, 0),
    };
    let (whole, decimals) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // Nine decimals tell every byte of a gigabyte apart. Without a unit there is nothing to be part of.
    let has_decimals = digits.contains('.');
    if !is_number(whole) || !is_number(decimals) || decimals.len() > 9 || (has_decimals && shift == 0) {
        return Err(wrong());
    }
    let scale = 10_u128.pow(decimals.len() as u32);
    let number: u128 = format!("{whole}{decimals}").parse().map_err(|_| wrong())?;
    let bytes = number.checked_mul(1 << shift).ok_or_else(wrong)? / scale;
    u64::try_from(bytes).map_err(|_| wrong())
}

/// The id of a device or of credentials, as QEMU allows it.
fn id(value: String) -> Result<String, String> {
    match value.as_str() {
        "" => Err("id=ID is missing".into()),
        // `change vnc` means the screen.
        "vnc" => Err("id=vnc: this name is taken by the screen; choose another id".into()),
        text if qmp::id::is_well_formed(text) => Ok(value),
        text => Err(format!(
            "id={}: an id is a letter, then letters, digits, '-', '.' and '_'",
            text.escape_debug()
        )),
    }
}

fn switch(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{key}={value}: give on or off")),
    }
}

/// Pairs of a `key=value,...` list, each key once. A doubled comma is a comma of the value, as QEMU has it.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let text = text.replace(",,", "\0");
    let mut pairs: Vec<(String, String)> = Vec::new();
    for part in text.split(',') {
        let (key, value) =
            part.split_once('=').ok_or_else(|| format!("'{}': give KEY=VALUE", part.replace('\0', ",")))?;
        if pairs.iter().any(|(other, _)| other == key) {
            return Err(format!("'{key}' is given twice"));
        }
        pairs.push((key.to_owned(), value.replace('\0', ",")));
    }
    Ok(pairs)
}

impl Drive {
    pub(super) fn new() -> Self {
        Drive {
            id: String::new(),
            file: String::new(),
            format: Kind::Raw,
            read_only: false,
            copy_on_read: false,
            direct: false,
            threads: false,
            unmap: true,
            serial: String::new(),
            queues: 1,
            on_write_error: OnError::Enospc,
            on_read_error: OnError::Report,
            cdrom: false,
        }
    }

    /// Whether an error may stop the machine; then `query-block` tells of it, as QEMU's does.
    pub(super) fn has_io_status(&self) -> bool {
        let stops = |policy| matches!(policy, OnError::Stop | OnError::Enospc);
        stops(self.on_write_error) || stops(self.on_read_error)
    }
}

/// `werror` and `rerror`: a read has no want of space to stop for.
fn on_error(key: &str, value: &str) -> Result<OnError, String> {
    match value {
        "report" => Ok(OnError::Report),
        "ignore" => Ok(OnError::Ignore),
        "stop" => Ok(OnError::Stop),
        "enospc" if key == "werror" => Ok(OnError::Enospc),
        _ if key == "werror" => Err(format!("{key}={value}: give report, stop, ignore or enospc")),
        _ => Err(format!("{key}={value}: give report, stop or ignore")),
    }
}

fn console(text: &str) -> Result<PathBuf, String> {
    match text.parse() {
        Ok(qmp::Address::Unix(path)) => Ok(path),
        Err(e @ qmp::AddressError::Option(..)) => Err(e.to_string()),
        _ => Err(format!("'{text}' is not a console's socket: give unix:PATH")),
    }
}

fn cdrom(text: &str) -> Result<Drive, String> {
    let mut drive = Drive { read_only: true, cdrom: true, ..Drive::new() };
    for (key, value) in pairs(text)? {
        match key.as_str() {
            "id" => drive.id = value,
            "file" => drive.file = value,
            _ => return Err(format!("unknown --cdrom key '{key}'")),
        }
    }
    drive.id = id(drive.id)?;
    Ok(drive)
}

fn tls_creds(text: &str) -> Result<TlsCreds, String> {
    let (mut id, mut folder, mut verify_peer) = (None, None, true);
    for (key, value) in pairs(text)? {
        match key.as_str() {
            "id" => id = Some(value),
            "dir" => folder = Some(value.into()),
            "verify-peer" => verify_peer = switch(&key, &value)?,
            _ => return Err(format!("unknown --tls-creds key '{key}'")),
        }
    }
    Ok(TlsCreds {
        id: self::id(id.unwrap_or_default())?,
        folder: folder.ok_or("dir=PATH is missing")?,
        verify_peer,
    })
}

fn drive(text: &str) -> Result<Drive, String> {
    let (mut id, mut file, mut format) = (None, None, None);
    let mut drive = Drive::new();
    for (key, value) in pairs(text)? {
        let choice = |choices: [&str; 2]| {
            let at = choices.iter().position(|choice| *choice == value);
            at.ok_or_else(|| format!("{key}={value}: give {} or {}", choices[0], choices[1]))
        };
        match key.as_str() {
            "id" => id = Some(value),
            "file" => file = Some(value),
            "format" => format = Some(value.parse::<Kind>().map_err(|e| e.to_string())?),
            "readonly" => drive.read_only = switch(&key, &value)?,
            "copy-on-read" => drive.copy_on_read = switch(&key, &value)?,
            "cache" => drive.direct = choice(["writeback", "none"])? == 1,
            "aio" => drive.threads = choice(["io_uring", "threads"])? == 1,
            "discard" => drive.unmap = choice(["ignore", "unmap"])? == 1,
            "serial" => drive.serial = value,
            "werror" => drive.on_write_error = on_error(&key, &value)?,
            "rerror" => drive.on_read_error = on_error(&key, &value)?,
            "queues" => {
                let queues = value.parse().ok().filter(|n| (1..=16).contains(n));
                drive.queues = queues.ok_or_else(|| format!("queues={value}: give 1 to 16"))?;
            }
            _ => return Err(format!("unknown --drive key '{key}'")),
        }
    }
    drive.id = self::id(id.unwrap_or_default())?;
    drive.file = file.filter(|file| !file.is_empty()).ok_or("file=PATH is missing")?;
    drive.format = format.ok_or("format=raw|qcow2|qed is missing: formats are never guessed")?;
    if drive.copy_on_read && drive.read_only {
        return Err("copy-on-read=on: a read-only disk takes no copies".into());
    }
    Ok(drive)
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
