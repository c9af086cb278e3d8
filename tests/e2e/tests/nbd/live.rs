//! Clients read and write while their disk is switched and streamed.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use harness::{Failure, STEP, Vm, check, qemu_img, wait_for};

use crate::rig::{MIB, Model, Rig, request, run};

const SIZE: u64 = 128 * MIB;
/// The length of the first part of the disk, in bytes. fio uses it and keeps its own model.
const FIOS: u64 = 32 * MIB;

/// Makes a raw base full of data, and a leaf over it.
pub fn images(rig: &Rig) -> Result<Model, Failure> {
    let mut model = Model::new(SIZE);
    for at in (0..SIZE).step_by(MIB as usize) {
        model.write(at, MIB - 4096, 1 + (at / MIB) as u8);
    }
    std::fs::write(rig.path("base.img"), &model.0)?;
    run("qemu-img", &["create", "-f", "qcow2", "-b", "base.img", "-F", "raw", &rig.text("leaf.qcow2")])?;
    Ok(model)
}

impl Model {
    /// Takes fio's part from an export. Only fio knows what it wrote, and it has verified that; here its
    /// part must only be the same everywhere.
    pub fn take_from(&mut self, uri: &str, rig: &Rig) -> Result<(), Failure> {
        run("nbdcopy", &[uri, &rig.text("copy.img")])?;
        let mut fios = std::fs::read(rig.path("copy.img"))?;
        fios.truncate(FIOS as usize);
        self.0[..FIOS as usize].copy_from_slice(&fios);
        Ok(())
    }
}

/// A `qemu-io` that writes at random and reads back until it is stopped; then it returns its model.
pub struct Writer {
    rounds: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Model, String>>,
}

impl Writer {
    pub fn start(uri: &str, mut model: Model) -> Result<Self, Failure> {
        // Each reply must arrive at once, not when a buffer is full.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "qemu-io", "-f", "raw", uri]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (rounds, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, stopping) = (rounds.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let written = write_on(&mut child, &mut model, &counter, &stopping).map_err(|e| e.to_string());
            let status = child.wait().map_err(|e| e.to_string())?;
            if let Err(e) = &written {
                eprintln!("the writer: {e}");
            }
            written.and(if status.success() { Ok(model) } else { Err(status.to_string()) })
        });
        Ok(Writer { rounds, stop, thread })
    }

    /// Waits until it has written more.
    pub fn goes_on(&self) -> Result<(), Failure> {
        let before = self.rounds.load(Ordering::Relaxed);
        wait_for("the writer to go on", STEP, || {
            check(!self.thread.is_finished(), "the writer still runs; its output shows the reason")?;
            Ok(self.rounds.load(Ordering::Relaxed) > before + 20)
        })
    }

    pub fn stop(self) -> Result<Model, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().map_err(|_| "the writer panicked")??)
    }
}

fn write_on(
    child: &mut Child,
    model: &mut Model,
    rounds: &AtomicU64,
    stop: &AtomicBool,
) -> Result<(), Failure> {
    let mut stdin: ChildStdin = child.stdin.take().ok_or("no input")?;
    let mut said = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
    let mut state = 1u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) % below
    };
    while !stop.load(Ordering::Relaxed) {
        let len = 1 + random(200_000);
        let offset = FIOS + random(SIZE - FIOS - len);
        let round = rounds.load(Ordering::Relaxed);
        let write = match round % 5 {
            0 => {
                model.write(offset, len, 0);
                format!("write -z {offset} {len}")
            }
            1 => model.write(offset, len, round as u8).replace("write", "write -f"),
            _ => model.write(offset, len, round as u8),
        };
        // One command at a time: qemu-io ignores a second line that comes with the first.
        for (command, done) in [(write, "wrote"), (model.read(offset, len), "read")] {
            writeln!(stdin, "{command}")?;
            for expected in [done, "ops"] {
                let line = said.next().ok_or("qemu-io ended")??;
                check(line.contains(expected), line)?;
            }
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Runs fio's nbd engine, which verifies its writes.
pub fn fio(rig: &Rig, uri: &str) -> Result<Child, Failure> {
    let mut command = Command::new("fio");
    command.args(["--name=nbd", "--ioengine=nbd", "--rw=randrw", "--bs=4k-64k", "--iodepth=16"]);
    command.args(["--verify=crc32c", "--verify_backlog=64", "--verify_fatal=1", "--fsync=100"]);
    command.arg(format!("--uri={uri}")).arg(format!("--size={FIOS}")).arg("--loops=3");
    command.current_dir(rig.path("")).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command.spawn()?)
}

pub fn ended_well(mut child: Child, what: &str) -> Result<(), Failure> {
    let (mut said, mut complaint) = (String::new(), String::new());
    if let (Some(stdout), Some(stderr)) = (&mut child.stdout, &mut child.stderr) {
        stdout.read_to_string(&mut said)?;
        stderr.read_to_string(&mut complaint)?;
    }
    check(child.wait()?.success(), format!("{what} ends well: {said}{complaint}"))
}

fn switch(vm: &mut Vm, rig: &Rig) -> Result<(), Failure> {
    vm.change("virtio0", &rig.path("leaf.qcow2"), Some("qcow2"), false)
}

#[test]
fn clients_work_on_through_a_switch_and_a_stream() -> Result<(), Failure> {
    let rig = Rig::new()?;
    let model = images(&rig)?;
    let mut vm = rig.start(&[("virtio0", "base.img", "raw")])?;
    let uri = rig.export(&mut vm, "virtio0", true)?;
    let writer = Writer::start(&uri, model)?;
    writer.goes_on()?;
    let mut fio = fio(&rig, &uri)?;
    switch(&mut vm, &rig)?;
    check(fio.try_wait()?.is_none(), "fio was at work during the switch")?;
    writer.goes_on()?;
    vm.stream("virtio0")?;
    vm.stream_completed(STEP)?;
    writer.goes_on()?;
    std::fs::remove_file(rig.path("base.img"))?;
    ended_well(fio, "fio")?;
    let mut model = writer.stop()?;
    model.take_from(&uri, &rig)?;
    rig.holds("raw", &uri, &model)?;
    vm.quit()?;
    rig.holds("qcow2", &rig.text("leaf.qcow2"), &model)?;
    qemu_img::check("qcow2", &rig.path("leaf.qcow2"), false)
}

#[test]
fn slow_clients_do_not_hold_a_switch_up() -> Result<(), Failure> {
    let rig = Rig::new()?;
    let model = images(&rig)?;
    let mut vm = rig.start(&[("virtio0", "base.img", "raw")])?;
    let uri = rig.export(&mut vm, "virtio0", true)?;
    // One client sends half of a write, one reads no replies, and one does nothing at all.
    let mut sending = rig.connect("virtio0")?;
    sending.write_all(&[request(1, 0, MIB as u32), vec![9; 1000]].concat())?;
    let mut unread = rig.connect("virtio0")?;
    for at in 0..64 {
        unread.write_all(&request(0, at * MIB, MIB as u32))?;
    }
    let _idle = rig.connect("virtio0")?;
    // When this client is served, the requests of the others have been received.
    run("nbdinfo", &["--size", &uri])?;
    switch(&mut vm, &rig)?;
    rig.holds("raw", &uri, &model)?;
    // The waiting requests complete afterwards, on the new leaf.
    sending.write_all(&vec![9; MIB as usize - 1000])?;
    let mut reply = [0; 16];
    sending.read_exact(&mut reply)?;
    check(reply[..8] == [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], format!("{reply:?}"))?;
    let mut model = model;
    model.write(0, MIB, 9);
    rig.holds("raw", &uri, &model)?;
    vm.quit()?;
    rig.holds("qcow2", &rig.text("leaf.qcow2"), &model)
}
