//! A page of several machines.

use std::time::Instant;

use harness::{Failure, STEP, wait_for};
use qmp::event::BlockJobCompleted;
use serde_json::{Value, json};

use crate::page::{browser, is_quiet};
use crate::{MIB, Stage, Web};

/// Chooses an entry of a select element, as a person would.
fn choose(browser: &harness::browser::Browser, id: &str, value: usize) -> Result<(), Failure> {
    browser.click(&format!("#{id} option[value='{value}']"))
}

#[test]
fn a_page_of_two_machines_shows_and_controls_the_one_that_is_chosen() -> Result<(), Failure> {
    let Some(browser) = browser(1280)? else { return Ok(()) };
    let (one, other) = (Stage::new()?, Stage::new()?);
    let (mut first, mut second) = (one.machine(4 * MIB)?, other.machine(8 * MIB)?);
    let web = Web::of(&[&one, &other], &["--control", "copy"])?;
    browser.open(&web.url)?;
    let both = |states: [&str; 2]| {
        browser.wait(&format!(
            "[...document.getElementById('machine').options].map((o) => o.textContent.split(': ')[1]).join() == '{}'",
            states.join(",")
        ))
    };
    both(["running", "running"])?;
    browser.wait("millrace.map.cells.length == 64")?;

    // A stop is for the machine that is chosen.
    choose(&browser, "machine", 1)?;
    browser.wait("millrace.map.cells.length == 128")?;
    browser.click("#power button")?;
    both(["running", "paused"])?;
    let status = |vm: &mut harness::Vm| vm.qmp.execute_json("query-status", Value::Null);
    assert_eq!(status(&mut first)?["running"], true);
    assert_eq!(status(&mut second)?["running"], false);

    // News come from both; what is drawn is of the chosen one.
    second.qmp.execute_json("block-stream", json!({"device": "virtio0", "job-id": "second"}))?;
    let _: BlockJobCompleted = second.qmp.wait(Instant::now() + STEP)?;
    browser.wait("millrace.map.cells.every((byte) => [2, 3].includes(byte & 7))")?;
    choose(&browser, "machine", 0)?;
    browser.wait("millrace.map.cells.length == 64 && millrace.map.cells.every((byte) => (byte & 7) == 1)")?;
    // A live copy of one leaves the other as it is.
    browser.enter("#copy-target", &one.path("copy.qcow2").display().to_string())?;
    browser.click("#copy button")?;
    browser.wait("document.getElementById('chain').textContent.includes('copy.qcow2')")?;
    let disk = second.qmp.execute_json("query-block", Value::Null)?;
    assert_eq!(disk[0]["inserted"]["file"], other.path("leaf").display().to_string());

    // One ends: the page says so of that one, and goes on with the other.
    second.quit()?;
    both(["running", "not connected"])?;
    browser.wait("document.getElementById('status').textContent == 'running'")?;
    is_quiet(&browser)?;
    drop(web);
    wait_for("the page to notice", STEP, || {
        Ok(browser.run("return document.getElementById('status').textContent")? == "not connected")
    })?;
    first.quit()
}
