//! The program with a guest of 96 bytes on any KVM, as several clients of its monitor see it at once.
//! Without `/dev/kvm` these tests say that they are skipped and pass.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Barrier, Mutex};
use std::time::Duration;

use guest_images::micro;
use qmp::{Address, Client};
use serde_json::Value;
use tempfile::TempDir;

struct Program {
    child: Child,
    folder: TempDir,
}

impl Program {
    /// Starts the program. Returns `None` if the host has no KVM.
    fn start(more: &[&str]) -> Option<Self> {
        if let Err(e) = vmm::check_host() {
            eprintln!("skipped: {e}");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("kernel"), micro::kernel(&micro::ECHO)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
        command.current_dir(folder.path()).stdin(Stdio::null());
        command.args([
            "run",
            "--sandbox",
            "strict",
            "--kernel",
            "kernel",
            "--memory",
            "64M",
            "--qmp",
            "unix:qmp",
        ]);
        let child = command.args(["--serial", "null"]).args(more).spawn().unwrap();
        let program = Program { child, folder };
        let mut client = program.client();
        // The monitor is there before the guest is.
        while ask(&mut client, "query-status")["running"] != true {}
        Some(program)
    }

    fn client(&self) -> Client {
        let mut client = connect(&self.folder.path().join("qmp"));
        client.set_timeout(Duration::from_secs(60));
        client
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(socket: &Path) -> Client {
    Client::connect(&Address::Unix(socket.to_owned()), Duration::from_secs(60)).unwrap()
}

fn ask(client: &mut Client, command: &str) -> Value {
    client.execute_json(command, Value::Null).unwrap_or_else(|e| panic!("{command}: {e}"))
}

/// A client that follows the machine's state by events alone.
struct Watcher {
    client: Client,
    running: bool,
    stops: usize,
}

impl Watcher {
    fn new(program: &Program) -> Self {
        Watcher { client: program.client(), running: true, stops: 0 }
    }

    /// Returns true if the machine runs. Events and `query-status` must agree: all events come before the
    /// reply.
    fn look(&mut self) -> bool {
        let status = ask(&mut self.client, "query-status");
        for event in self.client.events() {
            match event.event.as_str() {
                "STOP" => {
                    assert!(self.running, "a STOP of what was stopped");
                    self.running = false;
                    self.stops += 1;
                }
                "RESUME" => {
                    assert!(!self.running, "a RESUME of what was running");
                    self.running = true;
                }
                _ => {}
            }
        }
        assert_eq!(status["running"], self.running, "{status}, but the events say otherwise");
        self.running
    }
}

/// In every round, runs one command of each client at once; the machine is at rest between rounds.
fn rounds<const N: usize>(
    program: &Program,
    count: usize,
    commands: [&'static str; N],
    watcher: &mut Watcher,
) {
    let (begin, end) = (Barrier::new(N + 1), Barrier::new(N + 1));
    let errors = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for command in commands {
            let (begin, end, errors, mut client) = (&begin, &end, &errors, program.client());
            scope.spawn(move || {
                for _ in 0..count {
                    begin.wait();
                    if let Err(e) = client.execute_json(command, Value::Null) {
                        errors.lock().unwrap().push(format!("{command}: {e}"));
                    }
                    end.wait();
                }
            });
        }
        let mut wrong = 0;
        for _ in 0..count {
            begin.wait();
            end.wait();
            // Panics are counted and reported at the end: the other threads wait for this one at the
            // barriers.
            let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| watcher.look()));
            wrong += usize::from(looked.is_err());
        }
        assert_eq!(*errors.lock().unwrap(), [""; 0]);
        assert_eq!(wrong, 0, "of {count} rounds of {commands:?}");
    });
}

#[test]
fn clients_that_stop_and_continue_at_once_see_what_is_so() {
    let Some(program) = Program::start(&[]) else { return };
    let mut watcher = Watcher::new(&program);
    assert!(watcher.look());
    rounds(&program, 200, ["stop", "cont"], &mut watcher);
    assert!(watcher.stops > 0);
    rounds(&program, 20, ["stop", "cont", "stop", "cont"], &mut watcher);
    let mut client = program.client();
    ask(&mut client, "cont");
    assert!(watcher.look());
    rounds(&program, 20, ["system_reset", "cont"], &mut watcher);
    rounds(&program, 20, ["system_reset", "stop", "cont"], &mut watcher);
    // A machine whose reset fails does not run; after a reset that succeeds it runs again.
    ask(&mut client, "cont");
    let kernel = program.folder.path().join("kernel");
    std::fs::write(&kernel, "").unwrap();
    assert!(client.execute_json("system_reset", Value::Null).is_err());
    assert!(!watcher.look());
    std::fs::write(&kernel, micro::kernel(&micro::ECHO)).unwrap();
    ask(&mut client, "system_reset");
    assert!(watcher.look());
    ask(&mut client, "quit");
}

#[test]
fn without_a_machine_too() {
    let Some(program) = Program::start(&["--machine", "none"]) else { return };
    let mut watcher = Watcher::new(&program);
    rounds(&program, 100, ["stop", "cont", "system_reset"], &mut watcher);
    ask(&mut program.client(), "quit");
}
