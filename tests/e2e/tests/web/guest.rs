//! A guest's console and screen on the page: a guest of a few instructions, which draws a known pattern and
//! echoes what it is sent. Without `/dev/kvm` the test says that it is skipped, and passes.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use guest_images::micro;
use harness::{Failure, STEP, check, programs};
use qmp::{Address, Client};
use serde_json::{Value, json};

use crate::page::{browser, is_quiet};
use crate::{Stage, Web};

// WebDriver, section 17.4.2.
const SHIFT: char = '\u{e008}';
const ESCAPE: char = '\u{e00c}';

/// Ends the program when dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only if the process has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The text on the page's terminal.
const TEXT: &str = "
    const terminal = document.getElementById('console').terminal?.buffer.active, lines = [];
    for (let at = 0; at < (terminal?.length ?? 0); at += 1) lines.push(terminal.getLine(at).translateToString(true));
    return lines.join('\\n').trimEnd();";

#[test]
fn a_guest_is_typed_to_and_its_screen_is_seen() -> Result<(), Failure> {
    if let Err(e) = File::options().read(true).write(true).open("/dev/kvm") {
        println!("skipped: /dev/kvm: {e}");
        return Ok(());
    }
    let Some(browser) = browser(1280)? else { return Ok(()) };
    programs::web()?;
    let stage = Stage::new()?;
    std::fs::write(stage.path("kernel"), micro::kernel(&micro::DRAW))?;
    let mut command = Command::new(&stage.millrace);
    command.current_dir(stage.folder.path()).stdin(Stdio::null());
    command.args([
        "run",
        "--sandbox",
        "strict",
        "--kernel",
        "kernel",
        "--memory",
        "64M",
        "--qmp",
        "unix:qmp",
    ]);
    command.args(["--serial", "unix:console", "--vnc", "unix:vnc,password=on", "--display", "640x480"]);
    let machine = Machine(command.spawn()?);
    let mut qmp = Client::connect(&Address::Unix(stage.path("qmp")), STEP)?;

    let web = Web::start(&stage, &[])?;
    browser.open(&web.url)?;
    browser.wait("!document.getElementById('console-panel').hidden")?;
    browser.click("#console-open")?;
    let shows = |text: &str| browser.wait(&format!("(() => {{ {TEXT} }})() == '{text}'"));
    shows(">")?;
    // The guest makes the line of this number white, and echoes.
    browser.enter("#console textarea", "A")?;
    shows(">A")?;

    // Every key is the guest's, except for the one that leaves.
    browser.press_with(SHIFT, ESCAPE)?;
    browser.wait("document.activeElement.id == 'console-open'")?;

    // The screen asks for its password; without it, and with another one, there is no picture.
    let password = json!({"device": "vnc", "target": "password", "arg": "s3cret"});
    qmp.execute_json("change", password)?;
    let said = |text: &str| {
        browser.wait(&format!("document.getElementById('screen-text').textContent.startsWith('{text}')"))
    };
    for (password, says) in [("wrong", "The screen\\'s server refused"), ("s3cret", "Connected.")] {
        browser.click("#screen-open")?;
        browser.wait("document.getElementById('password').open")?;
        browser.enter("#password-text", password)?;
        browser.click("#password-form button")?;
        said(says)?;
        // noVNC reports the refusal on the console, too.
        let messages = browser.messages()?;
        let expected = |message: &String| password == "wrong" && message.contains("wrong password");
        check(messages.iter().all(expected), format!("only the refusal is reported: {messages:?}"))?;
    }
    check(browser.run("return document.getElementById('password-text').value")? == "", "it is forgotten")?;
    browser.wait("document.activeElement.tagName == 'CANVAS'")?;
    browser.press_with(SHIFT, ESCAPE)?;
    browser.wait("document.activeElement.id == 'screen-open'")?;
    browser.wait("document.querySelector('#screen canvas')?.width == 640")?;
    let pixels = "
        const canvas = document.querySelector('#screen canvas');
        const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
        copy.drawImage(canvas, 0, 0);
        const data = copy.getImageData(0, 0, canvas.width, canvas.height).data;
        const pixels = [];
        for (let at = 0; at < data.length; at += 4) pixels.push(data[at] << 16 | data[at + 1] << 8 | data[at + 2]);
        return pixels;";
    let expected: Vec<u32> = (0..480)
        .flat_map(|y| (0..640).map(move |x| if y == 65 { 0xff_ffff } else { micro::pixel(x, y) & 0xff_ffff }))
        .collect();
    harness::wait_for("the page's picture is the guest's, pixel for pixel", STEP, || {
        let shown = browser.run(pixels)?;
        let shown = shown.as_array().into_iter().flatten().filter_map(Value::as_u64);
        Ok(shown.eq(expected.iter().map(|&pixel| u64::from(pixel))))
    })?;

    // A second page sees what the guest has printed before, and a page that is read-only types nothing.
    browser.open("about:blank")?;
    browser.open(&web.url)?;
    browser.wait("!document.getElementById('console-panel').hidden")?;
    browser.click("#console-open")?;
    shows(">A")?;
    is_quiet(&browser)?;
    drop(web);
    is_refused_when_read_only(&browser, &stage)?;
    qmp.execute_json("quit", Value::Null)?;
    let mut machine = machine;
    check(machine.0.wait()?.success(), "the program ends well")
}

/// Checks that a page of a read-only server has no screen, and a console that takes no keys.
fn is_refused_when_read_only(browser: &harness::browser::Browser, stage: &Stage) -> Result<(), Failure> {
    let web = Web::start(stage, &["--read-only"])?;
    browser.open(&web.url)?;
    browser.wait("!document.getElementById('console-panel').hidden")?;
    check(browser.run("return document.getElementById('screen-panel').hidden")? == true, "no screen")?;
    let asked = "return millrace.link.pipe(0, 'vnc').then(() => 'done', (error) => error.message)";
    check(browser.run(asked)? == "the page is read-only", "the server refuses the screen")?;
    browser.click("#console-open")?;
    browser.wait("document.getElementById('console-text').textContent.includes('reading only')")?;
    // By a page of one's own, one could still send something: it goes nowhere. What another page types does.
    let sent = "
        return millrace.link.pipe(0, 'serial0').then(({ url, protocols }) => new Promise((resolve) => {
          const socket = new WebSocket(url, protocols);
          socket.onopen = () => { socket.send('B'); socket.send(new Uint8Array([66])); resolve('sent'); };
          socket.onerror = () => resolve('failed');
        }));";
    check(browser.run(sent)? == "sent", "a pipe opens")?;
    drop(web);
    let web = Web::start(stage, &[])?;
    browser.open(&web.url)?;
    browser.wait("!document.getElementById('console-panel').hidden")?;
    browser.click("#console-open")?;
    browser.wait("document.getElementById('console-text').textContent.startsWith('Connected')")?;
    browser.enter("#console textarea", "C")?;
    browser.wait(&format!("(() => {{ {TEXT} }})() == 'C'"))
}
