//! The page's server: a client of the monitors of running machines, and a web server.
//!
//! A process of its own. It holds no guest memory and opens no image; what it knows of a machine comes from
//! the machine's monitor, and what a page may do is what `permit` allows.
//!
//! # Modules, in reading order
//!
//! - `options`: the command line
//! - `access`: who may use the page: `Host`, `Origin` and the token
//! - `permit`: the commands that a page may send
//! - `connector`: a process that connects to machines, which this one may not
//! - `monitor`, `machine`: connections to a machine's monitor, and what is known of it
//! - `listener`: connections of browsers; `server`: their requests
//! - `pipes`, `console`: screens and consoles; `assets`: the page's files
//! - [`door`]: entry points for fuzzers
//!
//! # Example
//!
//! ```
//! // A browser that asks for the page, by a name that anybody's DNS could have moved here.
//! web::door::browser(b"\0GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n");
//! ```
//!
//! # Tests
//!
//! `*_tests.rs` beside the modules; `tests/hostile`: any bytes; `tests/e2e/tests/web`: with machines, by
//! curl's rules and in a browser.

mod access;
mod assets;
mod connector;
mod console;
pub mod door;
mod listener;
mod machine;
mod monitor;
mod options;
mod permit;
mod pipes;
mod server;

#[cfg(test)]
mod hostile_tests;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::ExitCode;

use axum::serve::ListenerExt;
use clap::Parser;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, UnixListener};

use access::Access;
use connector::Connector;
use listener::Bounded;
use machine::Machine;
use options::{Listen, Options};
use sandbox::{Mode, Role};
use server::Server;

/// Runs the program by its command line. Returns its exit code.
pub async fn run() -> ExitCode {
    // Also of a command line with an error.
    let attached = std::env::args_os().any(|argument| argument == "--attached");
    let options = match Options::try_parse() {
        Err(e) if !e.use_stderr() => {
            // Help or version. Nobody may be reading.
            let _ = e.print();
            return ExitCode::SUCCESS;
        }
        options => options.map_err(|e| options::in_one_line(&e)),
    };
    let served = match options {
        Ok(options) if options.connector => connector::run(options.sockets).map_err(|e| e.to_string()),
        Ok(options) => serve(options).await,
        Err(failure) => Err(failure),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        // `millrace run` reads the first line, and reports it as its own.
        Err(failure) if attached => {
            announce(&format!("error: {failure}"));
            ExitCode::FAILURE
        }
        Err(failure) => {
            // Nobody may be reading.
            let _ = writeln!(io::stderr(), "millrace-web: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Serves the page until the process is stopped, or standard input ends if that is asked for.
async fn serve(options: Options) -> Result<(), String> {
    let ended =
        options.attached.then(end_of_input).transpose().map_err(|e| format!("standard input: {e}"))?;
    let connector = Connector::start(&options.sockets).map_err(|e| format!("a process: {e}"))?;
    let sockets = options.sockets.into_iter().enumerate();
    let machines: Vec<_> =
        sockets.map(|(number, socket)| Machine::new(number, socket, connector.clone())).collect();
    let control = (!options.read_only).then_some(options.control);
    let token = match &options.token_file {
        Some(path) => access::token_in(path).map_err(|e| format!("{}: {e}", path.display()))?,
        None => access::random().map_err(|e| format!("no random numbers: {e}"))?,
    };
    for machine in &machines {
        tokio::spawn(machine.clone().follow());
    }
    let server =
        |address: Option<SocketAddr>| Server::new(Access::new(address, token), machines, control, connector);
    let serving = async {
        match options.listen {
            Listen::Tcp(address) => {
                let listening = async {
                    let listener = TcpListener::bind(address).await?;
                    let address = listener.local_addr()?;
                    Ok::<_, io::Error>((listener, address))
                };
                let (listener, address) = listening.await.map_err(|e| format!("{address}: {e}"))?;
                let server = server(Some(address));
                confine();
                // The token is in the fragment, which a browser sends to nobody.
                announce(&format!("http://{address}/#t={}", server.access.token()));
                let listener = listener.tap_io(|stream| {
                    // It works without, with a delay between what is typed and its echo.
                    let _ = stream.set_nodelay(true);
                });
                axum::serve(Bounded::new(listener), server.service()).await
            }
            Listen::Unix(path) => {
                let listener = UnixListener::bind(&path).map_err(|e| format!("{}: {e}", path.display()))?;
                let server = server(None);
                confine();
                announce(&format!("unix:{} http://localhost/#t={}", path.display(), server.access.token()));
                axum::serve(Bounded::new(listener), server.service()).await
            }
        }
        .map_err(|e| e.to_string())
    };
    tokio::select! {
        served = serving => served,
        () = async { match ended { Some(ended) => ended.await, None => std::future::pending().await } } => Ok(()),
    }
}

/// Returns a future that ends when standard input does: it is a pipe that the machine's process holds for as
/// long as it lives.
fn end_of_input() -> io::Result<impl Future<Output = ()>> {
    let pipe = io::stdin().as_fd().try_clone_to_owned()?;
    let mut pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(pipe)?;
    Ok(async move {
        let mut bytes = [0; 64];
        while pipe.read(&mut bytes).await.is_ok_and(|len| len > 0) {}
    })
}

/// From here on, this thread opens no file, connects nowhere and starts no program: whatever a browser sends.
fn confine() {
    let lacks = sandbox::confine(Role::Page, Mode::On);
    if !lacks.is_nothing() {
        // Nobody may be reading.
        let _ = writeln!(io::stderr(), "millrace-web: not confined in full: {lacks}");
    }
}

/// Prints the page's address.
fn announce(address: &str) {
    // Nobody may be reading.
    let _ = writeln!(io::stdout(), "{address}");
}
