//! The page without a mouse, and for a screen reader.

use std::collections::BTreeSet;

use harness::{Failure, check};
use serde_json::json;

use crate::page::{browser, is_quiet};
use crate::{MIB, Stage, Web};

// WebDriver, section 17.4.2.
const TAB: &str = "\u{e004}";
const SHIFT: char = '\u{e008}';
const ENTER: &str = "\u{e007}";
const ESCAPE: &str = "\u{e00c}";
const RIGHT: &str = "\u{e014}";
const END: &str = "\u{e010}";

/// Roles of what can be operated, or has to be said.
const NAMED: [&str; 11] = [
    "button",
    "combobox",
    "spinbutton",
    "textbox",
    "slider",
    "link",
    "progressbar",
    "region",
    "group",
    "list",
    "dialog",
];

/// A name for the element with the focus, and whether the focus can be seen.
const FOCUS: &str = "
    const element = document.activeElement;
    const seen = getComputedStyle(element).outlineStyle != 'none';
    return element === document.body ? null : [element.id || element.dataset.key || element.getAttribute('aria-label') || element.textContent, seen];";

#[test]
fn every_control_is_reached_by_keyboard_and_has_a_name() -> Result<(), Failure> {
    let Some(browser) = browser(1280)? else { return Ok(()) };
    let stage = Stage::new()?;
    let mut vm = stage.machine(1024 * MIB)?;
    let web = Web::start(&stage, &["--control", "full"])?;
    browser.open(&web.url)?;
    vm.qmp.execute_json("block-stream", json!({"device": "virtio0", "job-id": "copy", "speed": MIB}))?;
    browser.wait("document.querySelector('[data-key=\"copy pause\"]')")?;
    browser.wait("millrace.map.cells.length == 16384")?;

    let mut reached = BTreeSet::new();
    loop {
        browser.press(TAB)?;
        let focus = browser.run(FOCUS)?;
        // Behind the last one the focus leaves the page, and comes back to the first.
        let Some(name) = focus[0].as_str() else { break };
        check(focus[1] == true, format!("the focus on {name} is seen"))?;
        if !reached.insert(name.to_owned()) {
            break;
        }
    }
    let expected = [
        "machine",
        "disk",
        "Stop",
        "Power down",
        "about-button",
        "map-order",
        "map",
        "copy pause",
        "copy cancel",
        "copy limit",
        "speed limit of copy in MiB a second, 0 for none",
        "copy-target",
        "copy-format",
        "events",
    ];
    for name in expected {
        check(reached.contains(name), format!("{name} is reached: {reached:?}"))?;
    }
    let operable = browser.run(
        "return [...document.querySelectorAll('button:enabled, select, input, [tabindex=\"0\"], a, textarea')]
            .filter((element) => element.checkVisibility()).length",
    )?;
    assert_eq!(operable, reached.len(), "{reached:?}");

    let named = browser.accessible()?;
    for (role, name) in &named {
        check(!NAMED.contains(&role.as_str()) || !name.is_empty(), format!("a {role} has a name"))?;
    }
    for known in [
        ("slider", "Map of the disk, cell by cell"),
        ("button", "pause copy"),
        ("spinbutton", "speed limit of copy in MiB a second, 0 for none"),
        ("progressbar", "progress of copy"),
        ("combobox", "Disk"),
    ] {
        let found = named.iter().any(|(role, name)| (role.as_str(), name.as_str()) == known);
        check(found, format!("{known:?} in {named:?}"))?;
    }

    // The map: on to the second cell, to the last one, into it, and out again.
    browser.run("document.getElementById('map').focus()")?;
    let value = "return Number(document.getElementById('map').getAttribute('aria-valuenow'))";
    browser.press(RIGHT)?;
    assert_eq!(browser.run(value)?, 1);
    browser.press(END)?;
    assert_eq!(browser.run(value)?, 16383);
    let words = browser.run("return document.getElementById('map').getAttribute('aria-valuetext')")?;
    check(words.as_str().is_some_and(|words| words.starts_with("Offset 1024 MiB")), words)?;
    browser.press(ENTER)?;
    browser.wait("millrace.map.first == 12288 && millrace.map.cells.length == 4096")?;
    browser.press(ESCAPE)?;
    browser.wait("millrace.map.cells.length == 16384")?;

    // A job is paused and goes on, and the focus stays with it.
    browser.run("document.querySelector('[data-key=\"copy pause\"]').focus()")?;
    for verb in ["resume", "pause"] {
        browser.press(ENTER)?;
        browser.wait(&format!("document.activeElement.dataset.key == 'copy {verb}'"))?;
    }
    // News do not take away what somebody types.
    browser.press(&TAB.repeat(2))?;
    browser.press_with('\u{e009}', 'a')?;
    browser.press("7")?;
    let typed = "return [document.activeElement.value, document.activeElement.type].join()";
    assert_eq!(browser.run(typed)?, "7,number");
    let progress = "document.querySelector('.job').textContent";
    let before = browser.run(&format!("return {progress}"))?;
    browser.wait(&format!("{progress} != {before}"))?;
    assert_eq!(browser.run(typed)?, "7,number");
    browser.press(ENTER)?;
    browser.wait("document.querySelector('.job').textContent.includes('at most 7.0 MiB a second')")?;
    // Back to the buttons before it.
    browser.press_with(SHIFT, TAB.chars().next().unwrap_or_default())?;
    browser.wait("document.activeElement.dataset.key == 'copy cancel'")?;
    browser.press(ENTER)?;
    browser.wait("document.getElementById('jobs').textContent == 'No job.'")?;
    assert_eq!(browser.run("return document.activeElement.id")?, "jobs");

    // A dialog takes the focus and gives it back.
    browser.run("document.getElementById('about-button').focus()")?;
    browser.press(ENTER)?;
    browser.wait("document.getElementById('about').contains(document.activeElement)")?;
    browser.press(ESCAPE)?;
    browser.wait("document.activeElement.id == 'about-button'")?;
    is_quiet(&browser)?;
    vm.quit()
}
