//! The commands, a file for each subject. Each command is one entry there, which generates its argument
//! structure, its strict parser, its method in the trait of its group, its line in `query-commands` and its
//! schema.
//!
//! To add a command, write an entry, and implement its method in the program.
//!
//! An entry can end with its form in the text monitor, `as { ... }`:
//!
//! - `text USAGE or ALIAS: HELP, READ => PRINT` is a command of its own. `READ` makes the command's arguments
//!   of the words of a line, and `PRINT` makes the text of its answer.
//! - `info TOPIC: READ => PRINT` is a topic of `info`.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::hmp;
use crate::schema::{Qapi, Type};

mod copies;
mod disks;
mod exports;
mod jobs;
mod machine;
mod nodes;
pub(crate) mod own;
mod screen;
mod snapshots;
mod tray;
mod watch;

pub use copies::*;
pub use disks::*;
pub use exports::*;
pub use jobs::*;
pub use machine::*;
pub use nodes::*;
pub use own::*;
pub use screen::*;
pub use snapshots::*;
pub use tray::*;
pub use watch::*;

/// Everything that a file of commands needs.
mod prelude {
    pub(super) use std::future::Future;

    pub(super) use serde_json::{Map, Value};

    pub(super) use super::{CommandInfo, Request, to_value};
    pub(super) use crate::error::{Error, Result};
    pub(super) use crate::hmp;
    pub(super) use crate::schema::{Qapi, qapi_struct};
    pub(super) use crate::types::*;
}

/// A command's description.
pub struct CommandInfo {
    /// The name on the wire.
    pub name: &'static str,
    /// A description in one line.
    pub doc: &'static str,
    /// Its arguments: always an object.
    pub arguments: fn() -> Type,
    /// The type of its answer.
    pub answer: fn() -> Type,
}

/// A command's arguments as a type, which names the command and its answer.
pub trait Request: Serialize + Qapi + Into<Command> {
    /// The name on the wire.
    const NAME: &'static str;
    /// The type of its answer.
    type Answer: Serialize + DeserializeOwned + Qapi;
}

/// Converts a value to JSON. This cannot fail for our own types: no map has keys that are not strings.
pub(crate) fn to_value(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

groups! {
    Disks: disks as DiskCommands,
    Watch: watch as WatchCommands,
    Nodes: nodes as NodeCommands,
    Tray: tray as TrayCommands,
    Snapshots: snapshots as SnapshotCommands,
    Jobs: jobs as JobCommands,
    Copies: copies as CopyCommands,
    Exports: exports as ExportCommands,
    Screen: screen as ScreenCommands,
    Machine: machine as MachineCommands,
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
