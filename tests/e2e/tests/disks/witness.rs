//! `x-witness`: a file that says which image owns a disk, whoever dies when.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use guest_agent::pattern::mix;
use harness::images::drive;
use harness::nbd::Nbd;
use harness::programs::Programs;
use harness::{Failure, Options, STEP, Vm, check, qemu_img};
use qmp::event::{BlockJobCompleted, BlockJobReady};
use serde_json::{Value, json};

use crate::kill::{self, SIZE, holds, kills};
use crate::{MIB, Stage, disk, millrace};

/// The image that a witness names: `source` or `target`, its file and its format.
fn owner(witness: &Path) -> Result<(String, PathBuf, String), Failure> {
    let json: Value = serde_json::from_slice(&std::fs::read(witness)?)?;
    check(json["millrace-witness"] == 1, &json)?;
    let owner = json["owner"].as_str().ok_or("no owner")?;
    let text = |key: &str| json[owner][key].as_str().map(str::to_owned).ok_or("a member is missing");
    Ok((owner.to_owned(), text("file")?.into(), text("format")?))
}

/// Starts a mirror that catches up with any load.
fn mirror(vm: &mut Vm, target: &Path, witness: &Path) -> Result<Value, qmp::ClientError> {
    let arguments = json!({
        "device": "virtio0", "target": target.display().to_string(), "format": "qcow2", "sync": "full",
        "copy-mode": "write-blocking", "x-witness": witness.display().to_string(),
    });
    vm.qmp.execute_json("drive-mirror", arguments)
}

/// The time of a kill.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// Around READY.
    Ready,
    /// Around the move.
    Move,
    /// After the end of the job.
    End,
}

fn round(format: &str, cache: &str, moment: Moment, number: u64) -> Result<String, Failure> {
    let stage = Stage::new()?;
    let (base, copy, leaf) = stage.base_and_leaf(SIZE)?;
    let (source, target) = (if format == "raw" { base.clone() } else { leaf }, stage.path("target.qcow2"));
    let witness = stage.path("witness");
    let mut vm = stage.run(&[format!("{},cache={cache}", drive("virtio0", &source, format))])?;
    let socket = stage.path("nbd");
    vm.qmp.execute_json("nbd-server-start", json!({"addr": {"type": "unix", "data": {"path": &socket}}}))?;
    vm.qmp.execute_json("nbd-server-add", json!({"device": "virtio0", "writable": true}))?;
    let nbd = Nbd::connect(&socket, "virtio0", STEP)?;
    let (flushed, _flushes) = mpsc::channel();
    let client = std::thread::spawn(move || kill::load(nbd, number, &flushed).map_err(|e| e.to_string()));
    mirror(&mut vm, &target, &witness)?;
    let random = mix(number ^ u64::from(std::process::id()) << 32);
    let later = |most: u64| {
        // There is nothing to wait for: this test is about the moment of the kill itself.
        std::thread::sleep(Duration::from_micros((random >> 32) % most));
    };
    match moment {
        Moment::Ready if random.is_multiple_of(2) => later(400_000),
        Moment::Ready | Moment::Move | Moment::End => {
            let _: BlockJobReady = vm.qmp.wait(Instant::now() + STEP)?;
            later(5_000);
        }
    }
    if !matches!(moment, Moment::Ready) {
        vm.qmp.execute_json("block-job-complete", json!({"device": "virtio0"}))?;
    }
    match moment {
        Moment::Ready => {}
        Moment::Move => later(80_000),
        Moment::End => {
            let end: BlockJobCompleted = vm.qmp.wait(Instant::now() + STEP)?;
            check(end.error.is_none(), format!("{end:?}"))?;
            later(80_000);
        }
    }
    vm.kill()?;
    let story = client.join().map_err(|_| "the load panicked")??;

    let (name, file, format) = owner(&witness)?;
    match moment {
        Moment::Ready => check(name == "source", &name)?,
        Moment::Move => {}
        Moment::End => check(name == "target", &name)?,
    }
    // Nothing of the other is needed.
    let mut others = vec![target, base, stage.path("leaf.qcow2")];
    others.retain(|other| *other != file && (name == "target" || other.ends_with("target.qcow2")));
    for other in others {
        let _ = std::fs::remove_file(other);
    }
    if format != "raw" {
        qemu_img::check(&format, &file, true)?;
    }
    let raw = stage.path("raw");
    qemu_img::convert((&format, &file), ("raw", &raw))?;
    holds(&raw, &copy, &story)?;
    // It runs again, with the same name for another witness refused.
    let mut vm = stage.run(&[drive("virtio0", &file, &format)])?;
    let refused = mirror(&mut vm, &stage.path("next.qcow2"), &witness).err().map(|e| e.to_string());
    check(refused.is_some_and(|text| text.contains("File exists")), "a witness that exists is refused")?;
    vm.quit()?;
    Ok(format!("{} flushes, the owner is the {name}", story.flushes))
}

#[test]
fn killed_around_its_move_the_owner_has_every_flushed_write() -> Result<(), Failure> {
    for number in 0..kills()? {
        let moment =
            [Moment::Move, Moment::Ready, Moment::Move, Moment::Move, Moment::End][number as usize % 5];
        let format = if number % 2 == 0 { "raw" } else { "qcow2" };
        let cache = if number % 3 == 0 { "none" } else { "writeback" };
        match round(format, cache, moment, number) {
            Ok(story) => println!("{number}: {format} {cache} {moment:?}: {story}"),
            Err(e) => return Err(format!("{number}: {format} {cache} {moment:?}: {e}").into()),
        }
    }
    Ok(())
}

#[test]
fn a_witness_is_a_new_file_in_an_allowed_folder() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let base = stage.images.raw("base.img", 4 * MIB, &[(0, MIB)])?;
    let folder = stage.path(".").display().to_string();
    let programs = Programs::without_guest(millrace()?);
    let more = ["--allow-dir".to_owned(), folder];
    let options = Options { guest: false, more: more.into(), ..Options::new(&disk(&base, "raw")) };
    let mut vm = Vm::start(&programs, stage.folder.path(), &options)?;
    let (target, witness) = (stage.path("target.qcow2"), stage.path("witness"));

    std::fs::write(stage.path("file"), "something")?;
    let fifo = stage.path("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0)?;
    std::os::unix::fs::symlink("nowhere", stage.path("link"))?;
    let elsewhere = tempfile::tempdir()?;
    for (name, text) in [
        (stage.path("file"), "File exists"),
        (fifo.clone(), "File exists"),
        (stage.path("link"), "File exists"),
        (base.clone(), "File exists"),
        (stage.path("none/witness"), "No such file"),
        (elsewhere.path().join("witness"), "Permission denied"),
        ("/proc/witness".into(), ""),
        ("nbd://localhost/x".into(), "give the name of a file"),
    ] {
        let refused = mirror(&mut vm, &target, &name).err().ok_or("a witness that should be refused")?;
        let said = refused.to_string();
        check(said.contains(text) && said.contains(&name.display().to_string()), said)?;
        let jobs = vm.qmp.execute_json("query-jobs", Value::Null)?;
        check(jobs == json!([]), &jobs)?;
    }
    check(std::fs::read(stage.path("file"))? == b"something", "what exists stays as it is")?;
    check(std::fs::symlink_metadata(fifo)?.file_type().is_fifo(), "also a FIFO")?;

    mirror(&mut vm, &target, &witness)?;
    let _: BlockJobReady = vm.qmp.wait(Instant::now() + STEP)?;
    check(owner(&witness)? == ("source".into(), base, "raw".into()), "before the move it is the source")?;
    vm.qmp.execute_json("block-job-complete", json!({"device": "virtio0"}))?;
    let end: BlockJobCompleted = vm.qmp.wait(Instant::now() + STEP)?;
    check(end.error.is_none(), format!("{end:?}"))?;
    check(owner(&witness)? == ("target".into(), target, "qcow2".into()), "then it is the target")?;
    vm.quit()
}

/// The folder of the witness goes away while the job works, so that the move cannot be recorded.
#[test]
fn a_move_that_cannot_be_recorded_is_taken_back() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let base = stage.images.raw("base.img", 4 * MIB, &[(0, MIB)])?;
    let mut vm = stage.run(&disk(&base, "raw"))?;
    std::fs::create_dir(stage.path("folder"))?;
    mirror(&mut vm, &stage.path("target.qcow2"), &stage.path("folder/witness"))?;
    let _: BlockJobReady = vm.qmp.wait(Instant::now() + STEP)?;
    std::fs::remove_dir_all(stage.path("folder"))?;
    vm.qmp.execute_json("block-job-complete", json!({"device": "virtio0"}))?;
    let end: BlockJobCompleted = vm.qmp.wait(Instant::now() + STEP)?;
    check(end.error.as_deref() == Some("No such file or directory"), format!("{end:?}"))?;
    let blocks = vm.qmp.execute_json("query-block", Value::Null)?;
    check(blocks[0]["inserted"]["file"] == base.display().to_string(), &blocks)?;
    // Nothing of the job is left: the next one moves the disk.
    std::fs::create_dir(stage.path("folder"))?;
    let (target, witness) = (stage.path("next.qcow2"), stage.path("folder/witness"));
    mirror(&mut vm, &target, &witness)?;
    let _: BlockJobReady = vm.qmp.wait(Instant::now() + STEP)?;
    vm.qmp.execute_json("block-job-complete", json!({"device": "virtio0"}))?;
    let end: BlockJobCompleted = vm.qmp.wait(Instant::now() + STEP)?;
    check(end.error.is_none(), format!("{end:?}"))?;
    check(owner(&witness)?.1 == target, "the owner is the new target")?;
    vm.quit()
}
