//! The crate `qapi`: QEMU's commands, replies and events as types generated from QEMU's own schema. If
//! our reply or event has another form, parsing it fails there.

use std::collections::BTreeSet;
use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::path::Path;

use harness::images::drive;
use harness::servers::Server;
use harness::{Failure, STEP, check, wait_for};
use qapi::qmp;
use qapi::{Command, ExecuteError, Qmp, Stream};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{MIB, Stage, text};

/// A connection that records the commands it has run and the events it has received.
struct Typed {
    qmp: Qmp<Stream<BufReader<UnixStream>, UnixStream>>,
    run: BTreeSet<&'static str>,
    heard: BTreeSet<String>,
}

impl Typed {
    fn connect(socket: &Path) -> Result<Self, Failure> {
        let socket = UnixStream::connect(socket)?;
        socket.set_read_timeout(Some(STEP))?;
        let mut qmp = Qmp::new(Stream::new(BufReader::new(socket.try_clone()?), socket));
        let greeting = qmp.handshake()?;
        let version = greeting.version;
        check((version.qemu.major, version.qemu.minor, version.qemu.micro) == (10, 0, 0), "QEMU 10.0.0")?;
        check(version.package.starts_with("millrace "), &version.package)?;
        Ok(Typed { qmp, run: BTreeSet::from(["qmp_capabilities"]), heard: BTreeSet::new() })
    }

    fn try_to<C: Command + DeserializeOwned>(&mut self, arguments: Value) -> Result<C::Ok, ExecuteError> {
        self.run.insert(C::NAME);
        let command: C = serde_json::from_value(arguments).map_err(std::io::Error::from)?;
        let answer = self.qmp.execute(&command);
        for event in self.qmp.events() {
            let event = serde_json::to_value(event).map_err(std::io::Error::from)?;
            self.heard.extend(event["event"].as_str().map(str::to_owned));
        }
        answer
    }

    #[track_caller]
    fn to<C: Command + DeserializeOwned>(&mut self, arguments: Value) -> C::Ok {
        match self.try_to::<C>(arguments.clone()) {
            Ok(answer) => answer,
            Err(e) => panic!("{} {arguments}: {e}", C::NAME),
        }
    }

    /// Runs a command that must be refused. A reply that cannot be parsed is another kind of error.
    #[track_caller]
    fn refused<C: Command + DeserializeOwned>(&mut self, arguments: Value) -> qapi::Error {
        match self.try_to::<C>(arguments.clone()) {
            Err(ExecuteError::Qapi(error)) => error,
            Err(e) => panic!("{} {arguments}: {e}", C::NAME),
            Ok(_) => panic!("{} {arguments}: not refused", C::NAME),
        }
    }

    fn until(&mut self, status: Option<&str>) -> Result<(), Failure> {
        wait_for("the job's state", STEP, || {
            let jobs = serde_json::to_value(self.to::<qmp::query_jobs>(json!({})))?;
            Ok(jobs[0]["status"].as_str() == status)
        })
    }

    /// Runs a job whose source fails, and its commands.
    fn failing_jobs(&mut self, fail: &Path) -> Result<(), Failure> {
        std::fs::write(fail, "")?;
        let stop = json!({"device": "failing", "job-id": "f", "on-error": "stop", "auto-dismiss": false});
        self.to::<qmp::block_stream>(stop);
        self.until(Some("paused"))?;
        self.to::<qmp::query_block_jobs>(json!({}));
        std::fs::remove_file(fail)?;
        self.to::<qmp::block_job_resume>(json!({"device": "f"}));
        self.until(Some("concluded"))?;
        self.to::<qmp::block_job_dismiss>(json!({"id": "f"}));
        Ok(())
    }

    fn jobs(&mut self) -> Result<(), Failure> {
        let slow = json!({"device": "disk", "job-id": "j", "speed": 65536, "filter-node-name": "filter",
                          "backing-mask-protocol": true, "on-error": "enospc"});
        self.to::<qmp::block_stream>(slow.clone());
        self.to::<qmp::block_job_pause>(json!({"device": "j"}));
        self.until(Some("paused"))?;
        let info = serde_json::to_value(self.to::<qmp::query_block_jobs>(json!({})))?;
        check(info[0]["type"] == "stream" && info[0]["paused"] == true, &info)?;
        self.to::<qmp::job_resume>(json!({"id": "j"}));
        self.to::<qmp::job_pause>(json!({"id": "j"}));
        self.to::<qmp::block_job_cancel>(json!({"device": "j", "force": true}));
        self.until(None)?;
        self.to::<qmp::block_stream>(slow);
        self.to::<qmp::job_cancel>(json!({"id": "j"}));
        self.until(None)?;
        for form in ["job", "block-job"] {
            let manual = json!({"device": "disk", "job-id": "j", "speed": 65536, "auto-finalize": false,
                                "auto-dismiss": false});
            self.to::<qmp::block_stream>(manual);
            if form == "job" {
                // The second job finds nothing to copy.
                self.to::<qmp::block_job_set_speed>(json!({"device": "j", "speed": 0}));
            }
            self.until(Some("pending"))?;
            if form == "job" {
                self.refused::<qmp::job_complete>(json!({"id": "j"}));
                self.to::<qmp::job_finalize>(json!({"id": "j"}));
                self.to::<qmp::job_dismiss>(json!({"id": "j"}));
            } else {
                self.refused::<qmp::block_job_complete>(json!({"device": "j"}));
                self.to::<qmp::block_job_finalize>(json!({"id": "j"}));
                self.to::<qmp::block_job_dismiss>(json!({"id": "j"}));
            }
        }
        Ok(())
    }

    /// Runs the jobs that copy to nodes of `blockdev-add`, on the disk that no other job has.
    #[expect(deprecated, reason = "deprecated by QEMU, and in use")]
    fn copies(&mut self, stage: &Stage) -> Result<(), Failure> {
        let target = text(&stage.path("node.qcow2"));
        check(stage.images.image(&["create", "-f", "qcow2", &target, "4M"])?.status.success(), "a target")?;
        let file = json!({"driver": "file", "filename": target});
        self.to::<qmp::blockdev_add>(
            json!({"driver": "qcow2", "node-name": "node", "file": file, "read-only": false}),
        );
        self.to::<qmp::blockdev_mirror>(json!({
            "device": "failing", "job-id": "b", "target": "node", "sync": "full", "speed": 65536,
            "filter-node-name": "filter", "copy-mode": "background", "on-target-error": "enospc",
        }));
        self.refused::<qmp::blockdev_del>(json!({"node-name": "node"}));
        self.refused::<qmp::block_commit>(json!({"device": "failing", "job-id": "c", "on-error": "report"}));
        self.to::<qmp::block_job_cancel>(json!({"device": "b", "force": true}));
        wait_for("the job's end", STEP, || {
            let jobs = serde_json::to_value(self.to::<qmp::query_jobs>(json!({})))?;
            Ok(jobs.as_array().into_iter().flatten().all(|job| job["id"] != "b"))
        })?;
        let backup = json!({"device": "failing", "job-id": "b", "target": "node", "sync": "none", "speed": 65536,
                            "on-target-error": "stop", "filter-node-name": "filter"});
        self.to::<qmp::blockdev_backup>(backup);
        self.to::<qmp::block_job_cancel>(json!({"device": "b"}));
        let gone = |typed: &mut Self| -> Result<bool, Failure> {
            let jobs = serde_json::to_value(typed.to::<qmp::query_jobs>(json!({})))?;
            Ok(jobs.as_array().into_iter().flatten().all(|job| job["id"] != "b"))
        };
        wait_for("the job's end", STEP, || gone(self))?;
        self.to::<qmp::blockdev_del>(json!({"node-name": "node"}));
        let new = text(&stage.path("backup.qcow2"));
        let backup =
            json!({"device": "failing", "job-id": "b", "target": new, "format": "qcow2", "sync": "top"});
        self.to::<qmp::drive_backup>(backup);
        wait_for("the job's end", STEP, || gone(self))?;
        Ok(())
    }

    fn queries(&mut self) -> Result<(), Failure> {
        let block = serde_json::to_value(self.to::<qmp::query_block>(json!({})))?;
        check(block[0]["inserted"]["image"]["backing-filename"] == "low.img", &block)?;
        for arguments in [json!({}), json!({"flat": true})] {
            self.to::<qmp::query_named_block_nodes>(arguments);
        }
        for arguments in [json!({}), json!({"query-nodes": true})] {
            self.to::<qmp::query_blockstats>(arguments);
        }
        self.to::<qmp::query_version>(json!({}));
        self.to::<qmp::query_commands>(json!({}));
        self.to::<qmp::query_qmp_schema>(json!({}));
        self.to::<qmp::query_status>(json!({}));
        self.to::<qmp::query_name>(json!({}));
        self.to::<qmp::query_chardev>(json!({}));
        self.to::<qmp::query_jobs>(json!({}));
        self.to::<qmp::human_monitor_command>(json!({"command-line": "info block"}));
        Ok(())
    }

    #[expect(deprecated, reason = "deprecated by QEMU, and in use")]
    fn exports(&mut self, socket: &str) {
        let address = json!({"type": "unix", "data": {"path": socket}});
        self.to::<qmp::nbd_server_start>(json!({"addr": address, "max-connections": 3}));
        self.to::<qmp::nbd_server_add>(json!({"device": "disk", "description": "a disk"}));
        self.to::<qmp::nbd_server_remove>(json!({"name": "disk", "mode": "hard"}));
        self.to::<qmp::block_export_add>(
            json!({"type": "nbd", "id": "e", "node-name": "disk", "writable": true, "writethrough": true}),
        );
        self.to::<qmp::query_block_exports>(json!({}));
        self.to::<qmp::block_export_del>(json!({"id": "e"}));
        self.to::<qmp::nbd_server_stop>(json!({}));
    }

    fn tray(&mut self, medium: &str) {
        let id = || json!({"id": "cd0"});
        self.to::<qmp::blockdev_open_tray>(id());
        self.to::<qmp::blockdev_close_tray>(id());
        self.to::<qmp::blockdev_change_medium>(
            json!({"id": "cd0", "filename": medium, "format": "raw", "read-only-mode": "retain"}),
        );
        self.to::<qmp::eject>(json!({"device": "cd0", "force": true}));
    }

    /// Runs the commands of a screen, which this machine does not have.
    fn screen(&mut self) {
        let info = self.to::<qmp::query_vnc>(json!({}));
        assert!(!info.enabled);
        self.refused::<qmp::set_password>(
            json!({"protocol": "vnc", "password": "secret", "connected": "keep"}),
        );
        self.refused::<qmp::expire_password>(json!({"protocol": "vnc", "time": "+60"}));
        self.refused::<qmp::screendump>(json!({"filename": "none.png", "format": "png"}));
        let key = json!({"type": "qcode", "data": "ret"});
        self.refused::<qmp::send_key>(json!({"keys": [key], "hold-time": 5}));
        let events = json!([
            {"type": "key", "data": {"down": true, "key": {"type": "number", "data": 30}}},
            {"type": "btn", "data": {"down": true, "button": "left"}},
            {"type": "abs", "data": {"axis": "x", "value": 100}},
        ]);
        self.refused::<qmp::input_send_event>(json!({"events": events}));
    }

    fn errors(&mut self) {
        let error = self.refused::<qmp::eject>(json!({"id": "none"}));
        assert!(matches!(error.class, qapi::ErrorClass::DeviceNotFound), "{error}");
        let error = self.refused::<qmp::block_job_pause>(json!({"device": "none"}));
        assert!(matches!(error.class, qapi::ErrorClass::DeviceNotActive), "{error}");
        let error = self.refused::<qmp::qom_list>(json!({"path": "/"}));
        assert!(matches!(error.class, qapi::ErrorClass::CommandNotFound), "{error}");
        self.run.remove("qom-list");
        let error = self.refused::<qmp::block_stream>(json!({"device": "none"}));
        assert!(matches!(error.class, qapi::ErrorClass::GenericError), "{error}");
        self.refused::<qmp::job_complete>(json!({"id": "none"}));
        self.refused::<qmp::block_job_complete>(json!({"device": "none"}));
    }
}

#[test]
fn a_typed_client_runs_every_command_that_we_share() -> Result<(), Failure> {
    let stage = Stage::new()?;
    stage.images.raw("low.img", 4 * MIB, &[(0, 4 * MIB)])?;
    let leaf = stage.images.leaf("leaf.qcow2", ("low.img", "raw"))?;
    stage.images.raw("1.iso", MIB, &[])?;
    let (fail, low) = (stage.path("fail"), text(&stage.path("low.img")));
    let arguments = [
        "--filter=error",
        "file",
        &low,
        "error-pread=EIO",
        "error-pread-rate=100%",
        &format!("error-file={}", text(&fail)),
    ];
    let server = Server::nbdkit(&stage.path("low"), &arguments)?;
    let failing = stage.path("failing.qcow2");
    let create = ["create", "-f", "qcow2", "-b", &server.uri(""), "-F", "raw", &text(&failing)];
    check(stage.images.image(&create)?.status.success(), "an image over an export")?;
    let drives = [drive("disk", &leaf, "qcow2"), drive("failing", &failing, "qcow2")];
    let vm = stage.run(&drives, &["--cdrom", "id=cd0"])?;
    let mut typed = Typed::connect(&stage.path("qmp"))?;
    typed.queries()?;
    typed.errors();
    typed.screen();
    typed.failing_jobs(&fail)?;
    typed.jobs()?;
    typed.exports(&text(&stage.path("nbd")));
    typed.tray(&text(&stage.path("1.iso")));
    typed.to::<qmp::block_resize>(json!({"device": "disk", "size": 8 * MIB}));
    let snapshot = |name: &str| json!({"device": "disk", "snapshot-file": text(&stage.path(name)), "snapshot-node-name": name});
    typed.to::<qmp::blockdev_snapshot_sync>(snapshot("one"));
    typed.to::<qmp::transaction>(
        json!({"actions": [{"type": "blockdev-snapshot-sync", "data": snapshot("two")}],
               "properties": {"completion-mode": "individual"}}),
    );
    typed.refused::<qmp::transaction>(json!({"actions": [{"type": "abort", "data": {}}]}));
    typed.to::<qmp::stop>(json!({}));
    typed.to::<qmp::cont>(json!({}));
    let mirror = json!({
        "device": "disk", "target": stage.path("mirror.img"), "format": "raw", "sync": "full", "job-id": "m",
        "copy-mode": "background", "auto-finalize": false, "granularity": 4096, "buf-size": 65536,
    });
    typed.to::<qmp::drive_mirror>(mirror);
    typed.to::<qmp::block_job_change>(json!({"id": "m", "type": "mirror", "copy-mode": "write-blocking"}));
    typed.copies(&stage)?;
    typed.to::<qmp::system_powerdown>(json!({}));
    typed.to::<qmp::system_reset>(json!({}));
    let commands: Vec<_> = typed.to::<qmp::query_commands>(json!({}));
    typed.to::<qmp::quit>(json!({}));
    vm.ended()?;

    // Commands that QEMU does not have. All others must have been run.
    let own = ["block_stream", "query-block-stream", "change"];
    let missed = commands.iter().map(|command| command.name.as_str());
    let missed =
        missed.filter(|name| !name.starts_with("x-") && !own.contains(name) && !typed.run.contains(name));
    let missed: Vec<_> = missed.collect();
    check(missed.is_empty(), format!("no command was left out: {missed:?}"))?;
    let events = [
        "BLOCK_EXPORT_DELETED",
        "BLOCK_JOB_CANCELLED",
        "BLOCK_JOB_COMPLETED",
        "BLOCK_JOB_ERROR",
        "BLOCK_JOB_PENDING",
        "DEVICE_TRAY_MOVED",
        "JOB_STATUS_CHANGE",
        "POWERDOWN",
        "RESET",
        "RESUME",
        "STOP",
    ];
    let unheard: Vec<_> = events.into_iter().filter(|event| !typed.heard.contains(*event)).collect();
    check(unheard.is_empty(), format!("no event is missing: {unheard:?}; received: {:?}", typed.heard))
}
