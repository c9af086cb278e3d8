//! The command line.
#![allow(rustdoc::broken_intra_doc_links, reason = "clap shows these comments as they are")]

use std::ffi::OsString;
use std::path::PathBuf;

use block::Kind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use vmm::serial::Backend;

mod drive;
mod net;
mod values;
mod vnc;
mod web;

pub(super) use drive::Drive;
pub(super) use net::Net;
pub(super) use values::{pairs, size};
pub(super) use vnc::Vnc;
pub(super) use web::Web;

use drive::{cdrom, drive};
use values::{id, switch};

/// Run virtual machines whose disks can move to other images while the guest runs.
#[derive(Parser)]
#[command(name = "millrace", version, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Run a machine, or only its disks.
    Run(Box<Run>),
    /// Create and inspect images.
    #[command(subcommand, arg_required_else_help = true)]
    Image(Image),
    /// Show what this host offers to guests and images.
    Host {
        /// Folder whose file system is tested.
        #[arg(default_value = ".")]
        folder: PathBuf,
    },
    /// Send a command to a monitor and print the reply. Without a command, start a shell.
    Qmp {
        /// Address of the monitor: unix:PATH, tcp:HOST:PORT or a path.
        socket: String,
        /// Command and its arguments as KEY=VALUE. A dotted key names a member of an argument.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Show the progress of all jobs and the activity of every disk.
    Watch {
        /// Address of the monitor: unix:PATH, tcp:HOST:PORT or a path.
        socket: String,
        /// Print the state once and exit.
        #[arg(long)]
        once: bool,
    },
    /// Serve a web page that shows running machines: SOCKET... [OPTIONS], as 'millrace web --help' explains.
    #[command(disable_help_flag = true)]
    Web {
        /// Arguments of the page's server.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// The machine that runs the guest.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum MachineKind {
    /// A virtual machine on KVM.
    Kvm,
    /// No guest: only disks, jobs and the monitor.
    None,
}

/// The reaction to a guest's reset.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OnReset {
    /// Restart the machine.
    Restart,
    /// End the program.
    Exit,
}

/// The strictness of the sandbox.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Sandbox {
    /// A forbidden system call fails.
    On,
    /// A forbidden system call ends the program.
    Strict,
    /// No confinement.
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
    /// Machine that runs the guest.
    #[arg(long, value_enum, default_value = "kvm")]
    pub machine: MachineKind,
    /// Linux kernel of the guest: a bzImage or an ELF file.
    ///
    /// Default: the kernel that 'cargo run -p guest-images -- kernel' has prepared, with an initrd that
    /// mounts the first disk that has a root file system.
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk of the guest.
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Command line of the kernel.
    ///
    /// Default: 'console=ttyS0 reboot=acpi panic=-1 pci=off noreplace-smp cryptomgr.notests', with
    /// 'console=tty0' in front if there is a screen (--vnc).
    #[arg(long, value_name = "TEXT")]
    pub cmdline: Option<String>,
    /// Number of vCPUs, 1 to 16.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub cpus: u32,
    /// Size of the guest's RAM. K, M, G and T are powers of 1024.
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = size)]
    pub memory: u64,
    /// A disk: id=ID,file=PATH,format=raw|qcow2|qed[,KEY=VALUE...]. The first is the guest's /dev/vda.
    ///
    /// PATH is a file or a block device, an NBD export (nbd://HOST[:PORT]/EXPORT or
    /// nbd+unix:///EXPORT?socket=PATH), or null://SIZE, which reads as zeros and drops what is written.
    ///
    /// More keys, with their default first: readonly=off|on, copy-on-read=off|on, cache=writeback|none,
    /// aio=io_uring|threads, discard=unmap|ignore, queues=1 (to 16), serial=TEXT.
    ///
    /// discard=unmap frees the space of data that the guest discards; ignore keeps it.
    ///
    /// Reaction to an I/O error of the image: werror=enospc|report|ignore|stop for writes and flushes,
    /// rerror=report|ignore|stop for reads.
    ///
    /// report: the guest gets the error. ignore: the guest sees a success. stop: the machine stops, and
    /// 'cont' retries. enospc: stop if space is lacking, else report.
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = drive)]
    pub drive: Vec<Drive>,
    /// A removable, read-only drive: id=ID[,file=PATH]. Without a file it is empty.
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = cdrom)]
    pub cdrom: Vec<Drive>,
    /// A network interface: tap=NAME[,mac=ADDRESS] or passt=SOCKET[,mac=ADDRESS]. The first is the guest's
    /// eth0.
    ///
    /// tap: a tap interface of the host. passt: a network stack in user space, which needs no privileges;
    /// start it first with 'passt --socket SOCKET'.
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = net::parse)]
    pub net: Vec<Net>,
    /// A screen, shown by VNC, with keyboard and pointer: unix:PATH or HOST:DISPLAY, then
    /// [,password=on][,tls-creds=ID].
    ///
    /// DISPLAY 0 is TCP port 5900. If other machines can reach HOST, it needs password=on, or tls-creds with
    /// verify-peer=on.
    ///
    /// password=on: nobody gets in until 'change vnc password' or 'set_password' has set a password, of which
    /// 8 bytes count. tls-creds=ID: clients must use TLS, with the credentials of --tls-creds.
    ///
    /// The guest's kernel must be a bzImage.
    #[arg(long, value_name = "WHERE", value_parser = vnc::parse)]
    pub vnc: Option<Vnc>,
    /// Size of the screen in pixels, from 640x480 to 2560x1600.
    #[arg(long, value_name = "WxH", default_value = "1024x768", requires = "vnc", value_parser = vnc::size)]
    pub display: vmm::screen::Size,
    /// Show this machine on a web page: HOST:PORT or unix:PATH, then [,control=jobs|copy|full][,read-only=on]
    /// [,token-file=PATH].
    ///
    /// HOST is a loopback address. The page's address is printed at the start, with the token that opens it.
    /// It needs --qmp unix:PATH, and millrace-web beside this program.
    ///
    /// control=jobs (default) allows commands of jobs, 'stop', 'cont' and 'system_powerdown'; copy also those
    /// that copy a disk; full also 'change', 'quit' and 'human-monitor-command'. read-only=on allows nothing.
    #[arg(long, value_name = "WHERE", value_parser = web::parse)]
    pub web: Option<Web>,
    /// TLS credentials for the NBD server and --vnc: id=ID,dir=PATH[,verify-peer=on|off].
    ///
    /// The folder holds server-cert.pem, server-key.pem and ca-cert.pem. Clients need a certificate of that
    /// CA, unless verify-peer=off.
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = tls_creds)]
    pub tls_creds: Vec<TlsCreds>,
    /// A QMP socket: unix:PATH or tcp:HOST:PORT.
    ///
    /// In the path of any socket, write a comma as ',,'. QEMU's ',server=on,wait=off' may follow.
    #[arg(long, value_name = "SOCKET")]
    pub qmp: Vec<qmp::Address>,
    /// Text monitor: stdio or unix:PATH.
    #[arg(long, value_name = "WHERE")]
    pub monitor: Option<TextMonitor>,
    /// A serial port: stdio, null, file:PATH or unix:PATH. Give it twice for ttyS0 and ttyS1.
    ///
    /// Default: stdio, or null if the monitor uses stdio.
    #[arg(long, value_name = "WHERE")]
    pub serial: Vec<Backend>,
    /// A virtio console, faster than a serial port: unix:PATH. The first is the guest's /dev/hvc0.
    #[arg(long, value_name = "WHERE", value_parser = console)]
    pub console: Vec<PathBuf>,
    /// Reaction to a guest's reset.
    #[arg(long, value_enum, default_value = "restart")]
    pub on_reset: OnReset,
    /// Confine vCPU, disk and device threads to the system calls that they need.
    ///
    /// No thread may start programs or reach other processes.
    #[arg(long, value_enum, default_value = "on")]
    pub sandbox: Sandbox,
    /// Allow images, their backing files and NBD server sockets only below this folder (repeatable).
    /// Default: anywhere.
    ///
    /// NBD exports are then opened only if --drive, --cdrom or --allow-uri names them.
    #[arg(long, value_name = "PATH")]
    pub allow_dir: Vec<PathBuf>,
    /// Allow this NBD export, and otherwise only those of --drive and --cdrom (repeatable).
    ///
    /// URI is nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH.
    #[arg(long, value_name = "URI")]
    pub allow_uri: Vec<String>,
    /// Switch from root to this user before the guest starts. Files that are open by then stay open.
    ///
    /// A later 'change' opens only files that this user may open.
    ///
    /// Sockets are given to this user. In folders that this user may not write to, they are left behind at
    /// the end; the next start replaces them.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Write the process ID to this file.
    ///
    /// Fails if a running program holds the file. A file that was left over is replaced.
    #[arg(long, value_name = "PATH")]
    pub pidfile: Option<PathBuf>,
}

/// The place of the text monitor.
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
            _ => Err(format!("'{text}' is not a text monitor: give stdio or unix:PATH")),
        }
    }
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
    /// Create an image.
    Create {
        /// Format of the image: raw, qcow2 or qed.
        #[arg(short, value_name = "FORMAT")]
        format: Kind,
        /// Backing file, as the image will record it.
        #[arg(short, value_name = "FILE", requires = "backing_format")]
        backing: Option<String>,
        /// Format of the backing file.
        #[arg(short = 'F', value_name = "FORMAT", requires = "backing")]
        backing_format: Option<Kind>,
        /// Options of the format, such as cluster_size=64K. '-o help' lists them.
        #[arg(short, value_name = "KEY=VALUE,...")]
        options: Vec<String>,
        /// The new image.
        #[arg(required_unless_present = "options")]
        file: Option<String>,
        /// Size of the disk. Default: the size of the backing file.
        #[arg(value_parser = size)]
        size: Option<u64>,
    },
    /// Show the format, sizes and backing file of an image.
    Info {
        /// Format of the image: raw, qcow2 or qed.
        #[arg(short, value_name = "FORMAT")]
        format: Kind,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Read the image even if it is in use. It may change meanwhile.
        #[arg(short = 'U', long = "force-share")]
        share: bool,
        /// The image.
        file: String,
    },
    /// Check the metadata of an image for errors.
    ///
    /// Exit status: 0: no errors, 1: the check failed, 2: corruptions, 3: only leaked clusters, 63: the
    /// format has no checks.
    Check {
        /// Format of the image: raw, qcow2 or qed.
        #[arg(short, value_name = "FORMAT")]
        format: Kind,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Repair errors of this kind.
        #[arg(long, value_name = "WHAT")]
        repair: Option<Repair>,
        /// Read the image even if it is in use. It may change meanwhile.
        #[arg(short = 'U', long = "force-share")]
        share: bool,
        /// The image.
        file: String,
    },
    /// Show which file holds each part of the disk: the image or one behind it.
    Map {
        /// Format of the image: raw, qcow2 or qed.
        #[arg(short, value_name = "FORMAT")]
        format: Kind,
        /// Print JSON, as `qemu-img map --output=json` does.
        #[arg(long)]
        json: bool,
        /// Read the image even if it is in use. It may change meanwhile.
        #[arg(short = 'U', long = "force-share")]
        share: bool,
        /// The image.
        file: String,
    },
}

/// The errors that `image check` may repair.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Repair {
    /// Only leaked clusters: refcounts that are too high.
    Leaks,
    /// All errors that can be repaired.
    All,
}

fn console(text: &str) -> Result<PathBuf, String> {
    match text.parse() {
        Ok(qmp::Address::Unix(path)) => Ok(path),
        Err(e @ qmp::AddressError::Option(..)) => Err(e.to_string()),
        _ => Err(format!("'{text}' is not a socket for a console: give unix:PATH")),
    }
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

impl Run {
    /// Returns the command line of the kernel.
    pub(super) fn cmdline(&self) -> String {
        match &self.cmdline {
            Some(given) => given.clone(),
            None if self.vnc.is_some() => format!("console=tty0 {}", vmm::DEFAULT_CMDLINE),
            None => vmm::DEFAULT_CMDLINE.to_owned(),
        }
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
