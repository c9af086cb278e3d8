//! `millrace qmp` and `millrace watch`: clients of a monitor, either this program's or QEMU's.

use std::process::ExitCode;
use std::time::Duration;

use qmp::{Address, Client, ClientError};
use serde_json::Value;

use super::Failure;

mod schema;
mod shell;
mod watch;

pub(super) use watch::watch;

use schema::Schema;

/// Time limit for a server to accept the connection and to send its greeting.
const CONNECT: Duration = Duration::from_secs(10);
/// Time limit for a command: some wait for a guest or for storage.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Parses a socket's address. Without a prefix it is a path.
fn address(socket: &str) -> Result<Address, Failure> {
    let is_path = !socket.starts_with("unix:") && !socket.starts_with("tcp:");
    let address = if is_path { Ok(Address::Unix(socket.into())) } else { socket.parse() };
    address.map_err(|e| e.to_string())
}

fn connect(socket: &str) -> Result<Client, Failure> {
    let address = address(socket)?;
    let mut client = Client::connect_now(&address, CONNECT).map_err(|e| e.to_string())?;
    client.set_timeout(PATIENCE);
    Ok(client)
}

/// Returns a client's error as a text for the user.
fn failure(e: ClientError) -> Failure {
    match e {
        ClientError::Command { error, .. } => format!("{:?}: {}", error.class, error.desc),
        other => other.to_string(),
    }
}

/// Runs `millrace qmp SOCKET [COMMAND [KEY=VALUE]...]`.
pub(super) fn qmp(socket: &str, command: &[String]) -> Result<ExitCode, Failure> {
    let mut client = connect(socket)?;
    let schema = Schema::ask(&mut client);
    match command.split_first() {
        None => shell::run(client, connect(socket)?, schema)?,
        Some((name, pairs)) => {
            let answer = run(&mut client, &schema, name, pairs)?;
            println!("{answer:#}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a command whose arguments are `key=value` pairs.
fn run(client: &mut Client, schema: &Schema, name: &str, pairs: &[String]) -> Result<Value, Failure> {
    let arguments = schema.arguments(name, pairs)?;
    client.execute_json(name, arguments).map_err(failure)
}
