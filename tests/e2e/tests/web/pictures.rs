//! The looks of the page: nothing overlaps or is cut off at any width. With `MILLRACE_PICTURES` set to a
//! folder, pictures are kept there, for people to look at.

use std::path::Path;

use harness::{Failure, STEP, check, wait_for};
use serde_json::{Value, json};

use crate::page::{browser, is_quiet, requests};
use crate::{MIB, Stage, Web};

/// The names of elements that are wider than the page, or lie over each other.
const LOOK: &str = "
    const found = [], wide = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth > wide) found.push('the page is wider than its window');
    const boxes = [...document.querySelectorAll('section')].filter((s) => !s.hidden).map((s) => [s.id, s.getBoundingClientRect()]);
    boxes.forEach(([one, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
      if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom) found.push(one + ' lies over ' + other);
    }));
    for (const part of document.querySelectorAll('section button, section select, section input, section p, section li, canvas')) {
      const box = part.getBoundingClientRect(), around = part.closest('section')?.getBoundingClientRect();
      if (around && box.width && !part.closest('.u-legend') && !part.classList.contains('visually-hidden') && box.right > around.right + 1)
        found.push((part.id || part.textContent) + ' is cut off');
    }
    return found.join('; ');";

/// The smallest difference in lightness (CIE L*, of 100) between two of the map's colours: whoever sees no
/// colours can tell them apart by that.
const LIGHTNESS: &str = "
    const light = ['--back', '--absent', '--zero', '--data', '--moving', '--written'].map((name) => {
      const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
      const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255)
        .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
      return 116 * Math.cbrt(0.2126 * r + 0.7152 * g + 0.0722 * b) - 16;
    }).toSorted((a, b) => a - b);
    return Math.min(...light.slice(1).map((value, at) => value - light[at]));";

#[test]
fn nothing_overlaps_or_is_cut_off_at_any_width() -> Result<(), Failure> {
    let Some(browser) = browser(1280)? else { return Ok(()) };
    let stage = Stage::new()?;
    let mut vm = stage.machine(256 * MIB)?;
    let web = Web::start(&stage, &["--control", "full"])?;
    browser.open(&web.url)?;
    browser.wait("millrace.map.cells.length == 4096")?;
    // A switch, with requests around it, and a job in the middle of its work.
    let leaf = stage.path("copy.qcow2");
    vm.qmp.execute_json("x-live-copy", json!({"device": "virtio0", "target": leaf, "format": "qcow2"}))?;
    vm.stream_completed(STEP)?;
    let base = stage.path("copy.qcow2").display().to_string();
    let next = stage.images.leaf("next", (&base, "qcow2"))?;
    vm.change("virtio0", &next, Some("qcow2"), false)?;
    requests(&mut vm, &stage, &["read 0 1M", "write 200M 3M", "write -z 220M 2M", "flush", "read 8M 4k"])?;
    vm.qmp.execute_json("block-stream", json!({"device": "virtio0", "job-id": "copy", "speed": 16 * MIB}))?;
    browser.wait("millrace.map.cells.some((byte) => (byte & 7) == 3)")?;
    browser.wait("document.querySelector('[data-key=\"copy pause\"]')")?;
    let pictures = std::env::var_os("MILLRACE_PICTURES");
    for dark in [false, true] {
        browser.dark(dark)?;
        let apart = browser.run(LIGHTNESS)?;
        check(apart.as_f64().is_some_and(|apart| apart >= 8.0), format!("lightness differs by {apart}"))?;
        for width in [360, 1280, 3840] {
            browser.fit(width)?;
            // Plots follow their panels a moment later.
            let mut found = Value::Null;
            let good = wait_for("nothing to be found", STEP, || {
                found = browser.run(LOOK)?;
                Ok(found == "")
            });
            good.map_err(|e| format!("at {width} pixels: {found}: {e}"))?;
            if let Some(folder) = &pictures {
                let name = format!("page-{width}-{}.png", if dark { "dark" } else { "light" });
                browser.screenshot(&Path::new(folder).join(name))?;
            }
        }
        if let Some(folder) = &pictures {
            browser.fit(1280)?;
            for deficiency in ["protanopia", "deuteranopia", "tritanopia", "achromatopsia"] {
                browser.see_as(deficiency)?;
                let name = format!("page-{deficiency}-{}.png", if dark { "dark" } else { "light" });
                browser.screenshot(&Path::new(folder).join(name))?;
            }
            browser.see_as("none")?;
        }
    }
    is_quiet(&browser)?;
    vm.quit()
}
