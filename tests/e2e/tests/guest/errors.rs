//! The storage of a guest's disk fails: the machine stops, and later continues without harm.

use std::time::Instant;

use guest_agent::client::{Load, Region};
use harness::programs::{Programs, scratch};
use harness::servers::Server;
use harness::{Failure, Options, STEP, Vm, check};
use qmp::event::BlockIoError;
use qmp::types::BlockErrorAction;
use serde_json::{Value, json};

use crate::MIB;

/// The server of the disk runs out of space while the guest writes, again after the first `cont`, and no
/// more after the second.
pub fn full() -> Result<(), Failure> {
    let (programs, folder) = (Programs::ready()?, scratch()?);
    let image = folder.path().join("disk.img");
    std::fs::File::create(&image)?.set_len(16 * MIB)?;
    let full = folder.path().join("full");
    let (file, when) = (image.display().to_string(), format!("error-pwrite-file={}", full.display()));
    let arguments = ["--filter=error", "file", &file, "error-pwrite=ENOSPC", "error-pwrite-rate=100%", &when];
    let server = Server::nbdkit(&folder.path().join("server"), &arguments)?;
    let drive = format!("id=virtio0,file={},format=raw,werror=enospc,rerror=stop", server.uri(""));
    let mut vm = Vm::start(&programs, folder.path(), &Options::new(&[drive]))?;

    vm.agent()?.fill(&Region::new("/dev/vda", 0, 8 * MIB, 1), 1)?;
    let job = vm.agent()?.random_write(&Load { depth: 8, fsync_every: 50, ..Load::new("/dev/vda") })?;
    std::fs::write(&full, "")?;
    stopped(&mut vm)?;
    vm.qmp.execute_json("cont", Value::Null)?;
    stopped(&mut vm)?;
    std::fs::remove_file(&full)?;
    vm.qmp.execute_json("cont", Value::Null)?;
    let status = vm.qmp.execute_json("query-status", Value::Null)?;
    check(status["status"] == "running", status)?;

    let before = vm.agent()?.stat(job)?.total.count;
    harness::wait_for("the load to go on", STEP, || Ok(vm.agent()?.stat(job)?.total.count > before + 50))?;
    // Fails if any request failed.
    vm.agent()?.stop(job)?;
    vm.agent()?.verify("/dev/vda")?;
    let errors = vm.agent()?.errors()?;
    check(errors.is_empty(), format!("the guest's kernel sees no error: {errors:?}"))?;
    vm.agent()?.poweroff()?;
    vm.ended()
}

/// Waits until an error stops the machine, and checks the reports of it.
fn stopped(vm: &mut Vm) -> Result<(), Failure> {
    let error: BlockIoError = vm.qmp.wait(Instant::now() + STEP)?;
    let expected = error.action == BlockErrorAction::Stop && error.nospace == Some(true);
    check(expected && error.device == "virtio0", format!("{error:?}"))?;
    vm.qmp.wait_event("STOP", Instant::now() + STEP)?;
    let status = vm.qmp.execute_json("query-status", Value::Null)?;
    check(status == json!({"running": false, "status": "io-error"}), status)?;
    let drive = &vm.qmp.execute_json("query-block", Value::Null)?[0];
    check(drive["io-status"] == "nospace", drive)
}
