//! Requests as a page of somebody else, or another user of the host, would send them.

use std::fs::{self, Permissions};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use harness::{Failure, STEP, check, programs, wait_for};

use crate::{MIB, Stage, Web, page};

/// Opens a WebSocket with these headers instead of the page's own. Returns the status.
fn socket(web: &Web, path: &str, host: &str, origin: &str, offers: &str) -> Result<u16, Failure> {
    let own = format!("127.0.0.1:{}", web.port);
    let (host, origin) = (host.replace("OWN", &own), origin.replace("OWN", &own));
    let headers = [
        ("Host", host.as_str()),
        ("Origin", &origin),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Protocol", offers),
    ];
    let given: Vec<_> = headers.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    Ok(web.request(path, &given)?.0)
}

#[test]
fn only_the_own_page_with_the_token_gets_in() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let vm = stage.machine(4 * MIB)?;
    let web = Web::start(&stage, &[])?;
    let good = format!("millrace.v1, t.{}", web.token());
    let port = web.port;
    assert_eq!(socket(&web, "/ws", "OWN", "http://OWN", &good)?, 101);
    let local = format!("localhost:{port}");
    assert_eq!(socket(&web, "/ws", &local, &format!("http://{local}"), &good)?, 101);
    for (host, origin, offers, status) in [
        // A name that its owner has made to point here (DNS rebinding): whatever is requested.
        (format!("evil.example:{port}"), format!("http://evil.example:{port}"), good.clone(), 421),
        ("evil.example".into(), "http://evil.example".into(), good.clone(), 421),
        // A foreign page, and one that hides where it is from.
        ("OWN".into(), "http://evil.example".into(), good.clone(), 403),
        ("OWN".into(), "null".into(), good.clone(), 403),
        ("OWN".into(), String::new(), good.clone(), 403),
        ("OWN".into(), "https://OWN".into(), good.clone(), 403),
        // Without the token, or with a wrong one.
        ("OWN".into(), "http://OWN".into(), "millrace.v1".into(), 401),
        ("OWN".into(), "http://OWN".into(), String::new(), 401),
        ("OWN".into(), "http://OWN".into(), "millrace.v1, t.AAAAAAAAAAAAAAAAAAAAAA".into(), 401),
        ("OWN".into(), "http://OWN".into(), format!("{good}A"), 401),
    ] {
        assert_eq!(socket(&web, "/ws", &host, &origin, &offers)?, status, "{host} {origin} {offers}");
    }
    // The token opens no pipe: a pipe has a ticket.
    assert_eq!(socket(&web, "/pipe", "OWN", "http://OWN", &good)?, 401);
    let ticket = format!("millrace.v1, k.{}", web.token());
    assert_eq!(socket(&web, "/pipe", "OWN", "http://OWN", &ticket)?, 401);
    vm.quit()
}

#[test]
fn files_hold_no_secret_and_come_with_a_strict_policy() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let vm = stage.machine(4 * MIB)?;
    let web = Web::start(&stage, &["--read-only"])?;
    let host = format!("127.0.0.1:{}", web.port);
    let own = [("Host", host.as_str()), ("Connection", "close")];
    for path in ["/", "/app.js", "/vendor/xterm/lib/xterm.mjs"] {
        let (status, head) = web.request(path, &own)?;
        assert_eq!(status, 200, "{path}");
        let head = head.to_lowercase();
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self';",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cross-origin-resource-policy: same-origin",
            "cache-control: no-store",
        ] {
            check(head.contains(header), format!("{path} has {header}: {head}"))?;
        }
        for header in ["access-control-", "set-cookie", &web.token().to_lowercase()] {
            check(!head.contains(header), format!("{path} has no {header}: {head}"))?;
        }
    }
    for (path, status) in [("/none", 404), ("/../Cargo.toml", 404), ("/%2e%2e/Cargo.toml", 404), ("/ws", 400)]
    {
        let got = web.request(path, &own)?.0;
        check(got == status || (path == "/ws" && got >= 400), format!("{path}: {got}"))?;
    }
    assert_eq!(web.request("/", &[("Host", "evil.example")])?.0, 421);
    vm.quit()
}

#[test]
fn a_machine_starts_its_own_page_and_takes_it_along() -> Result<(), Failure> {
    programs::web()?;
    let stage = Stage::new()?;
    let vm = stage.machine_with(4 * MIB, &["--web", "127.0.0.1:0,control=copy"])?;
    // A thread writes the log.
    wait_for("the page's address in the log", STEP, || Ok(vm.log().contains("/#t=")))?;
    let log = vm.log();
    let rest = log.split_once("the page is at http://127.0.0.1:").map(|(_, rest)| rest);
    let port = rest.and_then(|rest| rest.split_once("/#t=")).ok_or_else(|| format!("an address: {log}"))?.0;
    let port: u16 = port.parse()?;
    let status = crate::request(port, "/", &[("Host", &format!("127.0.0.1:{port}"))])?.0;
    assert_eq!(status, 200);
    vm.quit()?;
    // The machine's process has ended; its page's server sees that.
    wait_for("the page's server to end", STEP, || Ok(TcpStream::connect(("127.0.0.1", port)).is_err()))
}

/// The numbers of a process's children.
fn children(process: u32) -> Result<Vec<u32>, Failure> {
    let text = fs::read_to_string(format!("/proc/{process}/task/{process}/children"))?;
    Ok(text.split_whitespace().filter_map(|number| number.parse().ok()).collect())
}

// test.sh runs it as root, and says that it is left out as another user.
#[test]
#[ignore = "needs root"]
fn the_page_of_a_machine_that_becomes_another_user_is_that_users_too() -> Result<(), Failure> {
    let web = programs::web()?;
    let mut stage = Stage::new()?;
    fs::set_permissions(stage.path("."), Permissions::from_mode(0o755))?;
    // That user may have no access to the programs' own folder.
    fs::copy(web, stage.path("millrace-web"))?;
    fs::copy(&stage.millrace, stage.path("millrace"))?;
    stage.millrace = stage.path("millrace");
    let vm = stage.machine_with(4 * MIB, &["--user", "nobody", "--web", "127.0.0.1:0"])?;
    wait_for("the page's address in the log", STEP, || Ok(vm.log().contains("/#t=")))?;
    let server = *children(vm.id())?.first().ok_or("the machine has no page")?;
    let connector = *children(server)?.first().ok_or("the page has no connector")?;
    for process in [vm.id(), server, connector] {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let user = status.lines().find_map(|line| line.strip_prefix("Uid:")).ok_or("no user")?;
        check(user.split_whitespace().all(|id| id == "65534"), format!("{process} is nobody's: {user}"))?;
    }
    let log = vm.log();
    let url = log.lines().find_map(|line| line.split_once("the page is at ")).ok_or("no address")?.1;
    let Some(browser) = page::browser(1280)? else { return vm.quit() };
    browser.open(url.trim())?;
    browser.wait("document.getElementById('status').textContent == 'running'")?;
    vm.quit()
}

#[test]
fn a_page_that_cannot_be_served_is_an_error_in_one_line() -> Result<(), Failure> {
    programs::web()?;
    let stage = Stage::new()?;
    let says = |arguments: &[&str]| -> Result<String, Failure> {
        let mut command = std::process::Command::new(&stage.millrace);
        command.current_dir(stage.folder.path()).args(arguments);
        let output = command.stdin(std::process::Stdio::null()).output()?;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        Ok(String::from_utf8(output.stderr)?)
    };
    let run = |page: &str| says(&["run", "--machine", "none", "--qmp", "unix:own", "--web", page]);
    let busy = std::net::TcpListener::bind("127.0.0.1:0")?;
    let busy = busy.local_addr()?.to_string();
    for (said, expected) in [
        (run(&busy)?, "millrace: --web: "),
        (run("0.0.0.0:80")?, "is not a loopback address"),
        (says(&["run", "--machine", "none", "--web", "127.0.0.1:0"])?, "give --qmp unix:PATH too"),
        (says(&["web", "none", "--listen", &busy])?, "millrace-web: "),
    ] {
        check(said.contains(expected), format!("{expected:?} in {said:?}"))?;
        assert_eq!(said.lines().count(), 1, "{said:?}");
    }
    Ok(())
}
