//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Serves a page that shows running machines.
#[derive(Parser, Debug)]
#[command(name = "millrace-web", version, about)]
pub struct Options {
    /// The monitors (--qmp unix:PATH) of the machines.
    #[arg(required = true, value_name = "SOCKET")]
    pub sockets: Vec<PathBuf>,
    /// The address that the page is served at: a loopback address, or unix:PATH.
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH", default_value = "127.0.0.1:0", value_parser = listen)]
    pub listen: Listen,
    /// Shows everything and changes nothing: no commands, no typing.
    #[arg(long)]
    pub read_only: bool,
    /// Keep the token in this file, so that a page stays connected when its server is started again.
    ///
    /// A file that does not exist is made, readable by its owner only. By default each start has a token of
    /// its own.
    #[arg(long, value_name = "PATH")]
    pub token_file: Option<PathBuf>,
    /// End when standard input ends.
    #[arg(long, hide = true)]
    pub attached: bool,
    /// Be the process that connects to machines, for the one at the other end of standard input.
    #[arg(long, hide = true)]
    pub connector: bool,
    /// The commands that the page may send.
    #[arg(long, value_enum, default_value_t = Control::Jobs, value_name = "GROUP")]
    pub control: Control,
}

/// The address that the page is served at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A loopback address, with a port; port 0 is any free one.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Groups of commands, each with those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Control {
    /// Jobs, `stop`, `cont` and `system_powerdown`.
    Jobs,
    /// Also commands that start a copy.
    Copy,
    /// Also `change`, `quit` and the text monitor.
    Full,
}

impl Control {
    /// Returns the group's name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Control::Jobs => "jobs",
            Control::Copy => "copy",
            Control::Full => "full",
        }
    }
}

/// Returns an error of the command line without usage and hints.
pub fn in_one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let lines: Vec<_> = first.lines().map(str::trim).collect();
    lines.join(" ").trim_start_matches("error: ").to_owned()
}

fn listen(text: &str) -> Result<Listen, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.is_empty() { Err("no path".to_owned()) } else { Ok(Listen::Unix(path.into())) };
    }
    let address: SocketAddr =
        text.parse().map_err(|_| "expected ADDRESS:PORT, as 127.0.0.1:8006, or unix:PATH".to_owned())?;
    // Whoever reaches the port sees the machine's screen and console: not for a network without encryption.
    if address.ip().is_loopback() {
        Ok(Listen::Tcp(address))
    } else {
        Err(format!("'{}' is not a loopback address; reach the page through ssh -L", address.ip()))
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
