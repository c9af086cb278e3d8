//! Viewers that stay connected through what happens to the machine, and many of them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use guest_images::micro;
use harness::viewer::Viewer;
use harness::{Failure, STEP, check, wait_for};
use serde_json::{Value, json};

use crate::{Machine, Pattern, has_kvm};

fn viewer(machine: &Machine) -> Result<Viewer, Failure> {
    Viewer::unix(&machine.path("vnc"), STEP)
}

/// Waits until a viewer sees the pattern with these lines made white.
fn sees(viewer: &mut Viewer, white: &[u8]) -> Result<(), Failure> {
    viewer.until("the pattern", STEP, |viewer| Ok(viewer.picture.shows_the_pattern(white).is_ok()))
}

#[test]
fn a_viewer_stays_through_stops_resets_and_a_live_copy_beside_one_that_stalls() -> Result<(), Failure> {
    if !has_kvm() {
        return Ok(());
    }
    let folder = harness::programs::scratch()?;
    let base = folder.path().join("base.img");
    std::fs::File::create(&base)?.set_len(16 << 20)?;
    let drive = format!("id=virtio0,file={},format=raw", base.display());
    let mut machine = Machine::start(&["--vnc", "unix:vnc", "--drive", &drive])?;
    let mut viewer = viewer(&machine)?;
    sees(&mut viewer, &[])?;
    // Asks for more than the sockets hold, and reads nothing.
    let mut stalled = UnixStream::connect(machine.path("vnc"))?;
    stalled.set_read_timeout(Some(STEP))?;
    stalled
        .write_all(&[b"RFB 003.008\n\x01\x01".as_slice(), &[3, 0, 0, 0, 0, 0, 2, 128, 1, 224]].concat())?;

    machine.ask("stop", Value::Null)?;
    machine.ask("cont", Value::Null)?;
    machine.whiten(3)?;
    sees(&mut viewer, &[3])?;

    // A live copy, a snapshot, and a mirror: three switches of the disk.
    let images = harness::images::Images::new(&harness::programs::millrace()?, folder.path());
    let leaf = images.leaf("leaf.qcow2", ("base.img", "raw"))?;
    machine
        .ask("change", json!({"device": "virtio0", "target": leaf, "format": "qcow2", "notify": false}))?;
    machine.whiten(4)?;
    sees(&mut viewer, &[3, 4])?;
    machine.ask("block_stream", json!({"device": "virtio0", "all": true}))?;
    machine.event("BLOCK_STREAM_COMPLETED")?;
    let overlay = folder.path().join("overlay.qcow2");
    machine.ask("blockdev-snapshot-sync", json!({"device": "virtio0", "snapshot-file": overlay}))?;
    let copy = folder.path().join("copy.qcow2");
    let mirror = json!({"device": "virtio0", "target": copy, "format": "qcow2", "sync": "full"});
    machine.ask("drive-mirror", mirror)?;
    machine.event("BLOCK_JOB_READY")?;
    machine.ask("block-job-complete", json!({"device": "virtio0"}))?;
    machine.event("BLOCK_JOB_COMPLETED")?;
    machine.whiten(5)?;
    sees(&mut viewer, &[3, 4, 5])?;

    // Stopped, reset, and not continued yet: black.
    machine.ask("stop", Value::Null)?;
    machine.ask("system_reset", Value::Null)?;
    viewer.until("a black screen", STEP, |viewer| Ok(viewer.picture.is_black()))?;
    machine.ask("cont", Value::Null)?;
    machine.prompt()?;
    sees(&mut viewer, &[])?;
    for _ in 0..2 {
        machine.ask("system_reset", Value::Null)?;
        machine.prompt()?;
    }
    machine.whiten(6)?;
    sees(&mut viewer, &[6])?;

    // The one that stalled reads again: the login, then what it asked for.
    let mut greeting = [0; 12];
    stalled.read_exact(&mut greeting)?;
    check(greeting == *b"RFB 003.008\n", "a greeting")?;
    stalled.read_exact(&mut [0; 600_000])?;
    let info = machine.ask("query-vnc", Value::Null)?;
    check(info["clients"].as_array().is_some_and(|clients| clients.len() == 2), &info)?;
    machine.end()
}

/// The largest screen is 2560x1600. Where KVM executes a guest's instructions by software, drawing all of it
/// takes a minute, so its two sides are tried one by one; 640x480 is the size of the other tests.
#[test]
fn viewers_see_the_widest_and_the_tallest_screen_pixel_for_pixel() -> Result<(), Failure> {
    if !has_kvm() {
        return Ok(());
    }
    for size in [(2560, 480), (640, 1600)] {
        let (width, height) = size;
        let mut machine = Machine::start(&["--vnc", "unix:vnc", "--display", &format!("{width}x{height}")])?;
        let mut viewer = viewer(&machine)?;
        check(viewer.picture.size == size, format!("{:?}", viewer.picture.size))?;
        let shows = |viewer: &Viewer, white: u32| {
            let mut pixels = (0..).zip(&viewer.picture.pixels);
            pixels.all(|(at, pixel)| {
                let (x, y) = (at % width, at / width);
                *pixel == if y == white { 0xff_ffff } else { micro::pixel(x, y) & 0xff_ffff }
            })
        };
        viewer.until("the pattern", STEP, |viewer| Ok(shows(viewer, height)))?;
        machine.whiten(200)?;
        viewer.until("a line made white", STEP, |viewer| Ok(shows(viewer, 200)))?;
        machine.end()?;
    }
    Ok(())
}

#[test]
fn a_hundred_viewers_in_a_row_leave_nothing_behind() -> Result<(), Failure> {
    if !has_kvm() {
        return Ok(());
    }
    let mut machine = Machine::start(&["--vnc", "unix:vnc"])?;
    let descriptors = |machine: &Machine| -> Result<usize, Failure> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", machine.child.id()))?.count())
    };
    sees(&mut viewer(&machine)?, &[])?;
    gone(&mut machine)?;
    let before = descriptors(&machine)?;
    for at in 0..100 {
        let mut viewer = viewer(&machine)?;
        if at % 10 == 0 {
            sees(&mut viewer, &[])?;
        }
    }
    gone(&mut machine)?;
    wait_for("their descriptors to be closed", STEP, || Ok(descriptors(&machine)? <= before))?;
    sees(&mut viewer(&machine)?, &[])?;
    machine.end()
}

/// Waits until nobody is connected.
fn gone(machine: &mut Machine) -> Result<(), Failure> {
    wait_for("the viewers go", STEP, || Ok(machine.ask("query-vnc", Value::Null)?["clients"] == json!([])))
}
