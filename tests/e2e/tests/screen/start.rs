//! Command lines that are refused.

use std::net::TcpListener;

use harness::{Failure, check, programs};

use crate::{command, has_kvm};

/// Runs the program, which must refuse these arguments. Returns what it says.
fn refused(more: &[&str]) -> Result<String, Failure> {
    let folder = programs::scratch()?;
    let output = command(folder.path())?.args(more).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    check(!output.status.success(), format!("{more:?} is refused: {said}"))?;
    Ok(said)
}

#[test]
fn a_screen_that_cannot_be_or_that_anybody_could_reach_is_refused_in_a_line() -> Result<(), Failure> {
    if !has_kvm() {
        return Ok(());
    }
    for (more, says) in [
        (
            &["--vnc", "0.0.0.0:77"][..],
            "0.0.0.0:5977 can be reached from other machines: it needs a password, or TLS credentials with verify-peer=on",
        ),
        (&["--vnc", "unix:vnc,tls-creds=t"], "--vnc: no --tls-creds has the id 't'"),
        (&["--vnc", "unix:kernel"], "--vnc: kernel exists and is not a socket"),
        (
            &["--vnc", "unix:vnc", "--machine", "none", "--qmp", "unix:q"],
            "--vnc: without a guest there is no screen",
        ),
    ] {
        let said = refused(more)?;
        check(said.contains(says) && said.lines().count() == 1, format!("{more:?}: {said}"))?;
    }
    // These are refused before anything else begins, with clap's hints.
    for (more, says) in [
        (
            &["--vnc", "unix:vnc", "--display", "100x100"][..],
            "a screen of 100x100: give 640x480 to 2560x1600",
        ),
        (&["--vnc", "unix:vnc", "--display", "2561x1600"], "a screen of 2561x1600"),
        (&["--vnc", ":1"], "names no host"),
        (&["--display", "800x600"], "--vnc <WHERE>"),
    ] {
        let said = refused(more)?;
        check(said.contains(says), format!("{more:?}: {said}"))?;
    }
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port();
    if let Some(display) = port.checked_sub(5900) {
        let said = refused(&["--vnc", &format!("127.0.0.1:{display}")])?;
        check(said.contains("in use"), said)?;
    }
    Ok(())
}
