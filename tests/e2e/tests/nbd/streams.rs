//! A source that fails once at one offset, as in QEMU's iotest 030: the events, progress and end of a
//! stream in our program and in qemu-storage-daemon, for each policy and each kind of error.

use harness::servers::{Server, StorageDaemon};
use harness::session::Session;
use harness::{Failure, check};
use serde_json::{Value, json};

use crate::rig::{MIB, Rig, run};

const SIZE: u64 = 2 * MIB;
/// The offset at which the source fails: the start of QEMU's second copy.
const BAD: u64 = 512 << 10;

/// Starts a server whose first read at [`BAD`] fails with `errno`; its content is a constant pattern.
fn failing_once(rig: &Rig, errno: &str) -> Result<Server, Failure> {
    let trigger = rig.text("fails-once");
    std::fs::write(rig.path("fails-once"), "")?;
    let size = format!("get_size=echo {SIZE}");
    let pread = format!(
        "pread=if [ $4 -le {BAD} ] && [ $(($4 + $3)) -gt {BAD} ] && rm '{trigger}' 2>/dev/null; then \
         echo '{errno} not now' >&2; exit 1; fi; yes | head -c $3"
    );
    Server::nbdkit(&rig.path("server"), &["eval", &size, &pread])
}

/// The fields of a job that are compared after an error.
fn at_error(job: &Value) -> Value {
    json!([job["offset"], job["len"], job["paused"], job["io-status"]])
}

/// Streams with one error on the way. Returns everything reported about it, without times and error
/// texts.
fn streamed(session: &mut Session, on_error: &str, stops: bool) -> Result<Vec<Value>, Failure> {
    let arguments = json!({"device": "leaf", "job-id": "job", "on-error": on_error, "auto-dismiss": false});
    session.answer("block-stream", arguments)?;
    let mut told = vec![session.event("BLOCK_JOB_ERROR")?];
    if stops {
        let jobs = session.answer("query-block-jobs", json!({}))?;
        told.push(at_error(&jobs["return"][0]));
        told.push(session.answer("block-job-resume", json!({"device": "job"}))?);
    }
    let mut end = session.event("BLOCK_JOB_COMPLETED")?;
    session.until(|message| message["data"]["status"] == "concluded")?;
    if let Some(error) = end.get_mut("error") {
        *error = json!("some");
    }
    told.push(end);
    let jobs = session.answer("query-block-jobs", json!({}))?;
    told.push(at_error(&jobs["return"][0]));
    session.answer("job-dismiss", json!({"id": "job"}))?;
    let error = |message: &&Value| message["event"] == "BLOCK_JOB_ERROR";
    told.push(json!(session.said.iter().filter(error).count()));
    Ok(told)
}

#[test]
fn a_source_that_fails_once_is_told_as_by_qemu() -> Result<(), Failure> {
    for (errno, on_error) in ["EIO", "ENOSPC"]
        .into_iter()
        .flat_map(|errno| ["report", "ignore", "stop", "enospc"].map(|on_error| (errno, on_error)))
    {
        let stops = on_error == "stop" || (on_error == "enospc" && errno == "ENOSPC");
        let told = |ours: bool| -> Result<Vec<Value>, Failure> {
            let rig = Rig::new()?;
            let server = failing_once(&rig, errno)?;
            let leaf = rig.text("leaf");
            // qemu-img opens the backing file, but does not read at the failing offset.
            run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &server.uri(""), "-F", "raw", &leaf])?;
            if ours {
                let vm = rig.start(&[("leaf", "leaf", "qcow2")])?;
                let told = streamed(&mut Session::connect(&rig.path("qmp"))?, on_error, stops)?;
                vm.quit()?;
                return Ok(told);
            }
            let file = format!("file,node-name=file,filename={leaf}");
            let nodes = [file, "qcow2,node-name=leaf,file=file".to_owned()];
            let (_daemon, mut session) = StorageDaemon::start(&rig.path("q"), &nodes, Session::connect)?;
            streamed(&mut session, on_error, stops)
        };
        let (ours, theirs) = (told(true)?, told(false)?);
        assert_eq!(ours, theirs, "{errno}, on-error={on_error}");
        // Also checks that the results are those that this test is about.
        let expected = if on_error == "ignore" || stops { SIZE } else { BAD };
        let end = &ours[ours.len() - 3];
        check(end["offset"] == expected, format!("{errno}, on-error={on_error}: {end}"))?;
    }
    Ok(())
}
