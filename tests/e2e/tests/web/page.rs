//! The page in a real browser.

use std::process::Command;
use std::time::Instant;

use harness::browser::Browser;
use harness::{Failure, STEP, Vm, check, qemu_img, wait_for};
use qmp::event::BlockJobCompleted;
use serde_json::{Value, json};

use crate::{MIB, Stage, Web};

/// Starts a browser, or says that there is none.
pub fn browser(width: u32) -> Result<Option<Browser>, Failure> {
    let browser = Browser::start(width)?;
    if browser.is_none() {
        println!("not tested: there is no chromium here (packages chromium and chromium-driver)");
    }
    Ok(browser)
}

/// Fails if the console has anything to complain about.
pub fn is_quiet(browser: &Browser) -> Result<(), Failure> {
    let messages = browser.messages()?;
    check(messages.is_empty(), format!("the console is empty: {messages:#?}"))
}

/// The states of the map's cells, as the page has them: number of the state for each cell.
fn states(browser: &Browser) -> Result<Vec<u64>, Failure> {
    let cells = browser.run("return Array.from(millrace.map.cells, (byte) => byte & 7)")?;
    Ok(cells.as_array().into_iter().flatten().filter_map(Value::as_u64).collect())
}

/// The cells as `qemu-img map` sees them: 1 for what comes from the backing file, 3 for data in the leaf.
fn expected(stage: &Stage, size: u64, cell: u64) -> Result<Vec<u64>, Failure> {
    let output = Command::new("qemu-img")
        .args(["map", "--output=json", "-U", "-f", "qcow2"])
        .arg(stage.path("leaf"))
        .output()?;
    let map: Value = serde_json::from_slice(&output.stdout)?;
    let mut cells = vec![0; usize::try_from(size / cell)?];
    for extent in map.as_array().into_iter().flatten() {
        let number = |key: &str| extent[key].as_u64().unwrap_or_default();
        let state = match (number("depth"), extent["zero"] == true) {
            (0, false) => 3,
            (0, true) => 2,
            _ => 1,
        };
        for at in number("start") / cell..(number("start") + number("length")).div_ceil(cell) {
            cells[usize::try_from(at)?] = state;
        }
    }
    Ok(cells)
}

/// Flushes the disk, as a guest would.
fn flush(vm: &mut Vm, stage: &Stage) -> Result<(), Failure> {
    requests(vm, stage, &["flush"])
}

/// Sends requests to the disk, in the words of qemu-io.
pub fn requests(vm: &mut Vm, stage: &Stage, words: &[&str]) -> Result<(), Failure> {
    let socket = stage.path("nbd");
    vm.qmp.execute_json("nbd-server-start", json!({"addr": {"type": "unix", "data": {"path": socket}}}))?;
    vm.qmp.execute_json("nbd-server-add", json!({"device": "virtio0", "writable": true}))?;
    let uri = format!("nbd+unix:///virtio0?socket={}", socket.display());
    let mut command = Command::new("qemu-io");
    for words in words {
        command.args(["-c", words]);
    }
    let output = command.args(["-f", "raw", &uri]).output()?;
    check(output.status.success(), String::from_utf8_lossy(&output.stderr))?;
    vm.qmp.execute_json("nbd-server-stop", json!({}))?;
    Ok(())
}

/// Limits the job by the page, in MiB a second.
fn limit(vm: &mut Vm, browser: &Browser, text: &str, speed: u64) -> Result<(), Failure> {
    browser.run("document.querySelector('.speed input').value = ''")?;
    browser.enter(".speed input", text)?;
    browser.click("[data-key='copy limit']")?;
    wait_for("the limit from the page", STEP, || {
        let jobs = vm.qmp.execute_json("query-block-jobs", json!({}))?;
        // Without a limit it may have ended.
        Ok(jobs[0].is_null() && speed == 0 || jobs[0]["speed"] == speed)
    })
}

/// Compares the map with `qemu-img map` while a stream copies: a cell that the page shows as copied is copied
/// for qemu-img, which looks later, and what qemu-img sees, the page shows soon.
fn is_the_map_of_qemu_img_while_it_moves(
    vm: &mut Vm,
    stage: &Stage,
    browser: &Browser,
) -> Result<(), Failure> {
    let size = 64 * MIB;
    let in_leaf = |state: u64| matches!(state, 2 | 3);
    // Each cell of `early` that is in the leaf is the same in `late`.
    let contains = |late: &[u64], early: &[u64]| {
        early.len() == late.len() && early.iter().zip(late).all(|(e, l)| !in_leaf(*e) || e == l)
    };
    let copied = |cells: &[u64]| cells.iter().filter(|state| in_leaf(**state)).count();
    let mut last = 0;
    for round in 0..4 {
        // It has gone on since the round before.
        let mut before = Vec::new();
        wait_for("the map to grow", STEP, || {
            before = states(browser)?;
            Ok(copied(&before) > last)
        })?;
        flush(vm, stage)?;
        let file = expected(stage, size, 64 << 10)?;
        check(contains(&file, &before), format!("round {round}: {before:?} before {file:?}"))?;
        wait_for("the map to show what qemu-img sees", STEP, || Ok(contains(&states(browser)?, &file)))?;
        last = copied(&before);
    }
    let jobs = vm.qmp.execute_json("query-jobs", json!({}))?;
    check(jobs[0]["status"] == "running", format!("the stream still copies: {jobs}"))
}

#[test]
fn a_live_copy_is_seen_and_controlled() -> Result<(), Failure> {
    let Some(browser) = browser(1280)? else { return Ok(()) };
    let (stage, size) = (Stage::new()?, 64 * MIB);
    let mut vm = stage.machine(size)?;
    let web = Web::start(&stage, &["--control", "copy"])?;
    browser.open(&web.url)?;
    browser.wait("millrace.map.cells.length == 1024")?;
    assert_eq!(browser.run("return location.hash + location.search")?, "", "the token is out of the address");
    // Everything comes from the backing file.
    let before = states(&browser)?;
    assert_eq!(before, vec![1; 1024]);

    // A stream, slowly; by clicks it pauses, goes on, and gets another limit.
    vm.qmp.execute_json("block-stream", json!({"device": "virtio0", "job-id": "copy", "speed": 4 * MIB}))?;
    browser.wait("document.querySelector('[data-key=\"copy pause\"]')")?;
    browser.wait("millrace.map.cells.some((byte) => (byte & 7) == 3)")?;
    browser.click("[data-key='copy pause']")?;
    browser.wait("document.querySelector('[data-key=\"copy resume\"]')")?;
    // A job that has paused copies nothing. What it has copied is in the file after a flush, for qemu-img.
    flush(&mut vm, &stage)?;
    let same = || Ok(states(&browser)? == expected(&stage, size, 64 << 10)?);
    wait_for("the map is qemu-img's, in mid-copy", STEP, same)?;
    browser.click("[data-key='copy resume']")?;
    browser.wait("document.querySelector('[data-key=\"copy pause\"]')")?;
    // Another limit, slow enough for a slow machine, and then none, by the field and its button.
    limit(&mut vm, &browser, "1.5", 3 * MIB / 2)?;
    is_the_map_of_qemu_img_while_it_moves(&mut vm, &stage, &browser)?;
    limit(&mut vm, &browser, "0", 0)?;
    let _: BlockJobCompleted = vm.qmp.wait(Instant::now() + STEP)?;
    wait_for("the map is qemu-img's, after the stream", STEP, same)?;
    check(states(&browser)?.iter().all(|&state| state == 3 || state == 2), "all is in the leaf")?;

    // A live copy by the form.
    browser.enter("#copy-target", &stage.path("copy.qcow2").display().to_string())?;
    browser.click("#copy button")?;
    browser.wait("document.getElementById('copy-reply').textContent.startsWith('x-live-copy: {')")?;
    browser.wait("document.getElementById('chain').textContent.includes('copy.qcow2')")?;
    browser.wait("document.getElementById('events').textContent.includes('BLOCK_SWITCHED')")?;
    is_quiet(&browser)?;
    vm.quit()?;
    qemu_img::check("qcow2", &stage.path("copy.qcow2"), false)
}

#[test]
fn commands_that_the_page_may_not_send_are_refused_by_the_server() -> Result<(), Failure> {
    let Some(browser) = browser(1280)? else { return Ok(()) };
    let stage = Stage::new()?;
    let vm = stage.machine(4 * MIB)?;
    for (more, allowed, refused) in [
        (&["--read-only"][..], "query-status", "stop"),
        (&[], "stop", "x-live-copy"),
        (&["--control", "copy"], "stop", "quit"),
        (&["--control", "full"], "cont", "nbd-server-start"),
    ] {
        let web = Web::start(&stage, more)?;
        browser.open(&web.url)?;
        browser.wait("document.getElementById('status').textContent != 'not connected'")?;
        let run = |command: &str| {
            browser.run(&format!(
                "return millrace.link.execute(0, '{command}').then(() => 'done', (error) => error.message)"
            ))
        };
        assert_eq!(run(allowed)?, "done", "{more:?}");
        let answer = run(refused)?;
        check(
            answer.as_str().is_some_and(|text| text.contains("may not send")),
            format!("{more:?}: {answer}"),
        )?;
    }
    vm.quit()
}

#[test]
fn a_server_that_ends_and_comes_back_is_noticed() -> Result<(), Failure> {
    let Some(browser) = browser(1280)? else { return Ok(()) };
    let stage = Stage::new()?;
    let vm = stage.machine(4 * MIB)?;
    let token = stage.path("token").display().to_string();
    let web = Web::start(&stage, &["--token-file", &token])?;
    browser.open(&web.url)?;
    browser.wait("document.getElementById('status').textContent == 'running'")?;
    // The machine ends: the page says so, and its server waits for the next one.
    vm.quit()?;
    browser.wait("document.getElementById('status').textContent == 'not connected'")?;
    let vm = stage.machine(4 * MIB)?;
    browser.wait("document.getElementById('status').textContent == 'running'")?;
    let listen = format!("127.0.0.1:{}", web.port);
    drop(web);
    browser.wait("document.getElementById('notice').textContent.includes('is gone')")?;
    let web = Web::start(&stage, &["--token-file", &token, "--listen", &listen])?;
    browser.wait("document.getElementById('status').textContent == 'running'")?;
    assert_eq!(browser.run("return document.getElementById('notice').hidden")?, true);
    drop(web);
    // Started with another token, it lets nobody in who has the old one.
    let _web = Web::start(&stage, &["--listen", &listen])?;
    browser.wait("document.getElementById('notice').textContent.includes('does not let this page in')")?;
    vm.quit()
}
