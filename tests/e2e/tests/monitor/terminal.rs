//! The programs as a user sees them on a terminal: line editing, completion, history, and progress bars.

use std::process::Command;

use harness::Failure;
use harness::terminal::Terminal;
use serde_json::json;

use crate::{MIB, Stage, ask, text};

const TAB: &str = "\t";
const ENTER: &str = "\r";
const UP: &str = "\x1b[A";
const END_OF_INPUT: &str = "\x04";

#[test]
fn the_text_monitor_completes_and_remembers() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut command = Command::new(&stage.millrace);
    command.args(["run", "--machine", "none", "--monitor", "stdio", "--drive", &stage.disk("virtio0", MIB)?]);
    let mut terminal = Terminal::run(&mut command)?;
    terminal.shows("(qemu) ")?;
    // Completed, then executed as if it had been typed.
    terminal.press(&["sto", TAB, ENTER])?;
    terminal.shows("\n")?;
    terminal.shows("(qemu) ")?;
    terminal.press(&["info stat", "us", ENTER])?;
    terminal.shows("VM status: paused")?;
    terminal.shows("(qemu) ")?;
    terminal.press(&["cont", ENTER])?;
    terminal.shows("\n")?;
    terminal.shows("(qemu) ")?;
    // The line before the last one.
    terminal.press(&[UP, UP, ENTER])?;
    terminal.shows("VM status: running")?;
    terminal.press(&["quit", ENTER])?;
    terminal.ended()
}

/// Ctrl-Z stops the program like any other in a terminal, and it can be continued.
#[test]
fn the_text_monitor_is_stopped_by_ctrl_z_and_goes_on() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut command = Command::new(&stage.millrace);
    command.args(["run", "--sandbox", "strict", "--machine", "none", "--monitor", "stdio"]);
    let mut terminal = Terminal::run(&mut command)?;
    terminal.shows("(qemu) ")?;
    terminal.press(&["\x1a"])?;
    harness::wait_for("the program to be stopped", harness::STEP, || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", terminal.id()))?;
        Ok(stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T')))
    })?;
    terminal.signal(rustix::process::Signal::CONT)?;
    terminal.press(&["info status", ENTER])?;
    terminal.shows("VM status")?;
    terminal.press(&["quit", ENTER])?;
    terminal.ended()
}

#[test]
fn the_shell_completes_names_and_shows_events_between_lines() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut vm = stage.run(&[stage.disk("virtio0", MIB)?], &[])?;
    let mut terminal = Terminal::run(Command::new(&stage.millrace).args(["qmp", &text(&stage.path("qmp"))]))?;
    terminal.shows("(QMP) ")?;
    terminal.press(&["query-stat", TAB, ENTER])?;
    terminal.shows("\"running\"")?;
    // The name of a command, then the name of its argument.
    terminal.press(&["block_resi", TAB, "dev", TAB])?;
    terminal.shows("block_resize device=")?;
    // Events are shown at once, and the line that is being typed is kept.
    ask(&mut vm, "stop", json!({}));
    terminal.shows(" STOP")?;
    terminal.press(&["virtio0 size=2M", ENTER])?;
    terminal.shows("{}")?;
    assert_eq!(ask(&mut vm, "query-block", json!(null))[0]["inserted"]["image"]["virtual-size"], 2 * MIB);
    terminal.press(&[END_OF_INPUT])?;
    terminal.ended()?;
    vm.quit()
}

#[test]
fn an_event_of_several_rows_is_shown_whole_while_a_line_is_edited() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut vm = stage.run(&[], &["--cdrom", "id=a-drive-with-a-name-that-is-as-long-as-it-can-be"])?;
    let mut terminal =
        Terminal::run_on(Command::new(&stage.millrace).args(["qmp", &text(&stage.path("qmp"))]), 50)?;
    terminal.draws("(QMP) ")?;
    const LEFT: &str = "\x1b[D";
    // A short line, one with the cursor inside it, one of several rows, and that one with the cursor in
    // its first row. This is repeated, so that the screen scrolls.
    let lines = ["query-sta", LEFT, &" x-very-long-argument=0".repeat(6), &LEFT.repeat(130)];
    for (n, keys) in lines.iter().cycle().take(24).enumerate() {
        if n % lines.len() == 0 {
            // Deletes the line of the previous round.
            terminal.press(&["\x05\x15"])?;
        }
        terminal.press(&[keys])?;
        let open = n % 2 == 0;
        let command = if open { "blockdev-open-tray" } else { "blockdev-close-tray" };
        let id = "a-drive-with-a-name-that-is-as-long-as-it-can-be";
        ask(&mut vm, command, json!({"id": id}));
        let event = vm.qmp.wait_event("DEVICE_TRAY_MOVED", std::time::Instant::now() + harness::STEP)?;
        let at = format!("{}.{:06}", event.timestamp.seconds, event.timestamp.microseconds);
        terminal.draws(&format!("{at} DEVICE_TRAY_MOVED {}", event.data))?;
        terminal.draws("(QMP) query-st")?;
    }
    vm.quit()
}

#[test]
fn watch_draws_bars_until_the_program_ends() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut vm = stage.run(&[stage.disk("virtio0", 4 * MIB)?], &[])?;
    let target = text(&stage.path("copy.qcow2"));
    let arguments = json!({"device": "virtio0", "target": target, "format": "qcow2", "speed": 65536});
    ask(&mut vm, "x-live-copy", arguments);
    let mut terminal =
        Terminal::run(Command::new(&stage.millrace).args(["watch", &text(&stage.path("qmp"))]))?;
    terminal.shows("virtio0")?;
    terminal.shows("/4.00 MiB")?;
    terminal.shows("stream running")?;
    ask(&mut vm, "block-job-set-speed", json!({"device": "virtio0", "speed": 0}));
    // At the end a user wants to know that the copy is done, how fast it was, and that the old image can
    // be deleted.
    terminal.shows("done: ")?;
    terminal.shows("/s on average")?;
    terminal.shows("virtio0.img is not needed any more")?;
    vm.quit()?;
    terminal.ended()
}
