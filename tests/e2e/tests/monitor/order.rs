//! The order of events and replies: what a command causes on a disk's thread reaches every client before the
//! reply to that command.

use harness::session::Session;
use harness::{Failure, Vm, check};
use serde_json::{Value, json};

use crate::{MIB, Stage};

/// Repetitions: a wrong order depends on the moment at which the main loop looks at a disk's messages.
const ROUNDS: usize = 50;

/// Returns the names of the events with what they report, oldest first.
fn events(messages: &[Value]) -> Vec<String> {
    let word = |data: &Value| match (data.get("status"), data.get("tray-open")) {
        (Some(status), _) => status.to_string(),
        (_, Some(open)) => open.to_string(),
        _ => String::new(),
    };
    let named = messages.iter().filter_map(|message| Some((message["event"].as_str()?, &message["data"])));
    named.map(|(name, data)| format!("{name} {}", word(data))).collect()
}

/// Two clients: one that gives commands, and one that only looks on.
struct Clients {
    giver: Session,
    watcher: Session,
}

impl Clients {
    fn of(stage: &Stage) -> Result<Self, Failure> {
        let socket = stage.path("qmp");
        Ok(Clients { giver: Session::connect(&socket)?, watcher: Session::connect(&socket)? })
    }

    /// Runs a command. Fails unless both clients have got the events `expected` before the reply; for the
    /// watcher, that is before the reply to a later command of its own.
    fn run(&mut self, command: &str, arguments: Value, expected: &[&str]) -> Result<(), Failure> {
        let (before, seen) = (self.giver.said.len(), self.watcher.said.len());
        let reply = self.giver.answer(command, arguments)?;
        self.watcher.answer("query-status", json!({}))?;
        check(reply.get("return").is_some(), format!("{command}: {reply}"))?;
        for (client, messages) in
            [("giver", &self.giver.said[before..]), ("watcher", &self.watcher.said[seen..])]
        {
            let got = events(messages);
            let is_before = expected.iter().all(|event| got.iter().any(|other| other == event));
            check(is_before, format!("{command}: the {client} got {got:?} before the reply"))?;
        }
        Ok(())
    }
}

fn stage() -> Result<(Stage, Vm), Failure> {
    let stage = Stage::new()?;
    let vm = stage.run(&[stage.disk("virtio0", MIB)?], &["--cdrom", "id=cd0"])?;
    Ok((stage, vm))
}

#[test]
fn a_tray_s_event_comes_before_the_reply() -> Result<(), Failure> {
    let (stage, vm) = stage()?;
    let mut clients = Clients::of(&stage)?;
    for _ in 0..ROUNDS {
        clients.run("blockdev-open-tray", json!({"device": "cd0"}), &["DEVICE_TRAY_MOVED true"])?;
        clients.run("blockdev-close-tray", json!({"device": "cd0"}), &["DEVICE_TRAY_MOVED false"])?;
    }
    vm.quit()
}

#[test]
fn a_job_s_events_come_before_the_reply() -> Result<(), Failure> {
    let (stage, vm) = stage()?;
    let mut clients = Clients::of(&stage)?;
    let status = |status: &str| format!("JOB_STATUS_CHANGE \"{status}\"");
    let (created, running, gone) = (status("created"), status("running"), status("null"));
    for _ in 0..ROUNDS {
        // One byte per second: the job is alive until it is cancelled.
        let slow = json!({"device": "virtio0", "job-id": "job", "speed": 1});
        clients.run("x-verify", slow, &[&created, &running])?;
        clients.run("job-cancel", json!({"id": "job"}), &[])?;
        clients.giver.until(|message| message["data"]["status"] == "concluded")?;
        clients.run("job-dismiss", json!({"id": "job"}), &[&gone])?;
    }
    vm.quit()
}
