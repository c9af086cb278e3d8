//! The monitor of the real program, without a guest: the commands that other tests do not use, and
//! clients by other authors.

mod clients;
mod conversation;
mod counters;
mod errors;
mod map;
mod nodes;
mod order;
mod python;
mod snapshot;
mod terminal;
mod transactions;
mod transcript;
mod tray;
mod typed;
mod wire;

use std::path::{Path, PathBuf};

use harness::images::{Images, drive};
use harness::programs::{self, Programs};
use harness::{Failure, Options, Vm};
use serde_json::{Value, json};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A folder with images, and the path of the program.
struct Stage {
    folder: TempDir,
    images: Images,
    millrace: PathBuf,
}

impl Stage {
    fn new() -> Result<Self, Failure> {
        let (folder, millrace) = (programs::scratch()?, programs::millrace()?);
        Ok(Stage { images: Images::new(&millrace, folder.path()), folder, millrace })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the program with these drives and further arguments, without a guest.
    fn run(&self, drives: &[String], more: &[&str]) -> Result<Vm, Failure> {
        let more = more.iter().map(|&argument| argument.to_owned()).collect();
        let options = Options { guest: false, more, ..Options::new(drives) };
        Vm::start(&Programs::without_guest(&self.millrace), self.folder.path(), &options)
    }

    /// Makes a raw image full of data. Returns the `--drive` option of a disk `name` on it.
    fn disk(&self, name: &str, size: u64) -> Result<String, Failure> {
        let file = self.images.raw(&format!("{name}.img"), size, &[(0, size)])?;
        Ok(drive(name, &file, "raw"))
    }
}

/// Runs a command that must succeed.
#[track_caller]
fn ask(vm: &mut Vm, command: &str, arguments: Value) -> Value {
    match vm.qmp.execute_json(command, arguments.clone()) {
        Ok(answer) => answer,
        Err(e) => panic!("{command} {arguments}: {e}"),
    }
}

/// Runs a command that must fail with this class and text.
#[track_caller]
fn refuse(vm: &mut Vm, command: &str, arguments: Value, class: &str, desc: &str) {
    match vm.qmp.execute_json(command, arguments.clone()) {
        Ok(answer) => panic!("{command} {arguments} returned {answer}"),
        Err(e) => match e.command_error() {
            Some(error) => {
                assert_eq!(json!(error), json!({"class": class, "desc": desc}), "{command} {arguments}")
            }
            None => panic!("{command} {arguments}: {e}"),
        },
    }
}

/// The image that a disk runs on, according to `query-block`.
fn inserted(vm: &mut Vm, device: &str) -> Value {
    let drives = ask(vm, "query-block", Value::Null);
    let drive = drives.as_array().into_iter().flatten().find(|drive| drive["device"] == device);
    drive.map_or(Value::Null, |drive| drive["inserted"].clone())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The data of all events of this name that have arrived.
fn events(vm: &mut Vm, name: &str) -> Vec<Value> {
    let all = vm.qmp.events().into_iter();
    all.filter(|event| event.event == name).map(|event| event.data).collect()
}
