//! The report in a browser: no error, nothing from the network, and nothing that lies over something else.

use std::path::Path;
use std::process::Command;

/// Looks at everything that the page shows, in a window of 1280 pixels: texts of a plot that touch each
/// other or leave the plot, cells of tables that are narrower than their text, and a page that is wider than
/// its window. What it finds becomes the only text of the page.
const LOOK: &str = r#"
<script>
addEventListener('load', () => {
  const found = [];
  document.querySelectorAll('details').forEach(part => part.open = true);
  if (document.documentElement.scrollWidth > innerWidth)
    found.push('the page is ' + document.documentElement.scrollWidth + ' wide');
  const plots = [...document.querySelectorAll('svg.plot')];
  let texts = 0;
  for (const plot of plots) {
    const frame = plot.getBoundingClientRect();
    const all = [...plot.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
    texts += all.length;
    all.forEach(([name, box], i) => {
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
        found.push('"' + name + '" leaves its plot');
      for (const [other, second] of all.slice(i + 1))
        if (box.left + 1 < second.right && second.left + 1 < box.right && box.top + 3 < second.bottom && second.top + 3 < box.bottom)
          found.push('"' + name + '" lies over "' + other + '" in ' + plot.getAttribute('aria-label'));
    });
  }
  for (const cell of document.querySelectorAll('td, th, dd'))
    if (cell.scrollWidth > cell.clientWidth + 1) found.push('"' + cell.textContent + '" is wider than its cell');
  const sections = [...document.querySelectorAll('section')].map(section => section.getBoundingClientRect());
  for (let i = 1; i < sections.length; i++)
    if (sections[i].top < sections[i - 1].bottom) found.push('section ' + i + ' lies over the one before');
  document.body.textContent = 'LOOKED ' + plots.length + ' plots ' + texts + ' texts FOUND ' + found.length + ': ' + found.join('; ') + ' END';
});
</script>
"#;

/// The line of the policy that forbids scripts, which the look needs.
const POLICY: &str =
    r#"<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">"#;

/// Opens a page without network, and returns what the page became and what the browser logged.
fn open(page: &Path, scheme: &str) -> Option<(String, String)> {
    let home = tempfile::tempdir().unwrap();
    let profile = format!("--user-data-dir={}", home.path().display());
    let output = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--disable-extensions",
        ])
        // Whatever it wants to load goes to a port at which nobody listens.
        .args([
            "--proxy-server=127.0.0.1:9",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--disable-background-networking",
        ])
        .args([
            &profile,
            &format!("--blink-settings=preferredColorScheme={scheme}"),
            "--window-size=1280,900",
        ])
        .args(["--dump-dom", &format!("file://{}", page.display())])
        .env("HOME", home.path())
        .output();
    match output {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        output => {
            let output = output.unwrap();
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            Some((text(&output.stdout), text(&output.stderr)))
        }
    }
}

const EVENT: &str = r#"
    name = "a report of the event tier"
    disk = { size = "64M" }
    link = { rate = "200Mbit" }
    workload = { preset = "oltp", rate = 200, working-set = "16M" }
    strategies = { disk = ["mirror-io", "postcopy-hot", "three-phase", "hybrid(0.5)"] }
    runs = { seeds = 2, tier = "event" }
    sweep = { "link.delay" = ["1ms", "5ms"] }
"#;

/// The number of plots on a page, of what the look found.
fn plots(found: &str) -> usize {
    found.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_report_opens_without_network_errors_and_overlaps() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    // Everything that makes a page full: all kinds of strategies, long names, two swept keys, runs that
    // never end.
    let experiment = r#"
        name = "everything that a page has"
        disk = { size = "8G" }
        ram = { size = "2G", dirty = "60M/s", working-set = "1G" }
        link = { rate = "1Gbit" }
        workload = { preset = "oltp", rate = 500, working-set = "4G" }
        limits = { deadline = "300s" }
        runs = { seeds = 6 }
        assert = { "mirror-background+precopy-localmin.converged" = "all", "adaptive+precopy-localmin.p99" = "<1us" }

        [strategies]
        disk = ["stop-and-copy", "postcopy-trace", "snapshot-delta", "dbt-hot-avoid", "mirror-background", "mirror-io",
                "mirror-behind(16M)", "adaptive", "three-phase", "hybrid(0.25)", "compose"]
        ram = ["precopy-localmin", "hybrid"]
        [sweep]
        "workload.rate" = [100, 5000]
        "target.device" = ["nvme", "hdd-7200"]
    "#;
    std::fs::write(at.join("full.toml"), experiment).unwrap();
    let run = |arguments: &[&str]| {
        let status =
            Command::new(env!("CARGO_BIN_EXE_lab")).current_dir(at).args(arguments).output().unwrap();
        assert_ne!(status.status.code(), Some(2), "{}", String::from_utf8_lossy(&status.stderr));
    };
    run(&["run", "full.toml", "--out", "out"]);
    run(&["report", "out", "--against", "out"]);
    let page = at.join("out/report.html");
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains(POLICY));
    let Some((shown, log)) = open(&page, "1") else {
        println!("not tried: there is no chromium to open the report in");
        return;
    };
    assert!(shown.contains("Paired differences"), "the browser shows nothing: {log}");
    assert!(!log.contains("CONSOLE"), "{log}");
    let looked = at.join("looked.html");
    let look = |html: &str, style: &str, scheme: &str| {
        std::fs::write(&looked, html.replacen(POLICY, &format!("{LOOK}{style}"), 1)).unwrap();
        let (shown, log) = open(&looked, scheme).unwrap();
        assert!(!log.contains("CONSOLE"), "{log}");
        let found = shown.split("<body>LOOKED").nth(1).and_then(|rest| rest.split(" END").next());
        found.unwrap_or_else(|| panic!("the look did not run: {log}")).to_owned()
    };
    for scheme in ["0", "1"] {
        let found = look(&html, "", scheme);
        assert!(plots(&found) > 30, "{found}");
        assert!(found.contains("FOUND 0:"), "{found}");
    }
    // The event tier has courses and latencies of its own.
    std::fs::write(at.join("event.toml"), EVENT).unwrap();
    run(&["run", "event.toml", "--out", "event"]);
    let event = std::fs::read_to_string(at.join("event/report.html")).unwrap();
    let (_, log) = open(&at.join("event/report.html"), "1").unwrap();
    assert!(!log.contains("CONSOLE"), "{log}");
    let found = look(&event, "", "1");
    assert!(plots(&found) > 10 && found.contains("FOUND 0:"), "{found}");
    let found = look(&html, "<style>.plot text { font-size: 30px }</style>", "1");
    assert!(!found.contains("FOUND 0:"), "the look finds nothing: {found}");
    // Had there been a script or something to load, the page's own policy would have logged it.
    let broken = at.join("broken.html");
    std::fs::write(&broken, html.replacen("</main>", "<img src=\"http://127.0.0.1:9/x.png\"></main>", 1))
        .unwrap();
    let (_, log) = open(&broken, "1").unwrap();
    assert!(log.contains("CONSOLE"), "the check of the log finds nothing: {log}");
}
