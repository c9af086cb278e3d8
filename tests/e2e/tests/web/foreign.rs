//! Pages of somebody else, in a real browser: what they try against the page's server is refused, even if
//! they know the token.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use harness::browser::Browser;
use harness::{Failure, Vm, check};
use serde_json::{Value, json};

use crate::{MIB, Stage, Web};

/// Tries everything that a script could, and returns what came of each attempt. `HOST` and `TOKEN` are filled
/// in.
const ATTEMPTS: &str = "
    const base = 'http://HOST', send = JSON.stringify({ m: 0, execute: 'stop', id: 1 });
    const socket = (path, protocols) => new Promise((resolve) => {
      const socket = new WebSocket('ws://HOST' + path, protocols);
      socket.onopen = () => { socket.send(send); };
      socket.onmessage = (message) => { if (JSON.parse(message.data).id === 1) resolve('ran'); };
      socket.onerror = () => resolve('refused');
    });
    const script = (type) => new Promise((resolve) => {
      const script = document.createElement('script');
      Object.assign(script, { type, src: base + '/text.js', onload: () => resolve('ran'), onerror: () => resolve('refused') });
      document.head.append(script);
    });
    const get = (options) => fetch(base + '/app.js', options).then((reply) => reply.ok ? 'read' : 'status ' + reply.status, () => 'refused');
    return Promise.all([
      socket('/ws', ['millrace.v1', 't.TOKEN']),
      socket('/pipe', ['millrace.v1', 'k.TOKEN']),
      get({}),
      get({ mode: 'no-cors' }),
      fetch(base + '/ws', { method: 'POST', mode: 'no-cors', body: send }).then(() => 'sent', () => 'refused'),
      script('module'),
      script('text/javascript'),
    ]);";

/// Runs [`ATTEMPTS`] in the browser's page.
fn attempts(browser: &Browser, host: &str, token: &str) -> Result<Value, Failure> {
    browser.run(&ATTEMPTS.replace("HOST", host).replace("TOKEN", token))
}

fn is_running(vm: &mut Vm) -> Result<bool, Failure> {
    Ok(vm.qmp.execute_json("query-status", Value::Null)?["running"] == true)
}

/// A server with an empty page, at a port of its own.
struct Other {
    port: u16,
    ended: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Other {
    fn start() -> Result<Self, Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (port, ended) = (listener.local_addr()?.port(), Arc::new(AtomicBool::new(false)));
        let end = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                // A browser connects before it has something to ask, too.
                std::thread::spawn(move || {
                    let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n\
                                <title>Other</title><body>";
                    // Whoever asked may have gone.
                    if stream.read(&mut [0; 4096]).is_ok_and(|len| len > 0) {
                        let _ = stream.write_all(page.as_bytes());
                    }
                });
            }
        });
        Ok(Other { port, ended, thread })
    }

    /// Gives the port to somebody else.
    fn end(self) -> Result<(), Failure> {
        self.ended.store(true, Ordering::Relaxed);
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?);
        self.thread.join().map_err(|_| "the other server's thread panicked".into())
    }
}

#[test]
fn pages_of_somebody_else_are_refused_in_a_browser() -> Result<(), Failure> {
    // A name whose owner has made it point to this host (DNS rebinding).
    let rebound = ["--host-resolver-rules=MAP evil.example 127.0.0.1"];
    let Some(browser) = Browser::start_with(1280, &rebound)? else {
        println!("not tested: there is no chromium here (packages chromium and chromium-driver)");
        return Ok(());
    };
    let (stage, other, rebinding) = (Stage::new()?, Other::start()?, Other::start()?);
    let mut vm = stage.machine(4 * MIB)?;
    let web = Web::start(&stage, &["--control", "full"])?;
    let (host, token) = (format!("127.0.0.1:{}", web.port), web.token());

    // Another origin, by address and by name. The token's being known does not matter.
    for origin in [format!("http://127.0.0.1:{}", other.port), format!("http://evil.example:{}", other.port)]
    {
        browser.open(&origin)?;
        check(browser.run("return document.title")? == "Other", "the other page is there")?;
        for host in [host.clone(), format!("evil.example:{}", web.port)] {
            let came = attempts(&browser, &host, token)?;
            // That a request is sent blindly is up to the browser; it runs nothing.
            let blind = came[4].clone();
            let refused = json!(["refused", "refused", "refused", "refused", blind, "refused", "refused"]);
            check(came == refused, format!("{origin} to {host}: {came}"))?;
        }
        // It cannot be shown inside of another page either.
        let framed = "return new Promise((resolve) => {
            const frame = document.createElement('iframe');
            frame.onload = () => resolve(Boolean(frame.contentWindow.length) || frame.contentDocument !== null);
            frame.src = 'http://HOST/';
            document.body.append(frame);
        });";
        check(browser.run(&framed.replace("HOST", &host))? == false, "nothing of it is in a frame")?;
    }
    assert!(is_running(&mut vm)?);

    // By a foreign name, there is no page.
    browser.open(&format!("http://evil.example:{}/#t={token}", web.port))?;
    check(browser.run("return document.title != 'Millrace' && !globalThis.millrace")? == true, "no page")?;

    // A page whose name and port become those of the page's server: of one origin with it.
    let rebound = format!("evil.example:{}", rebinding.port);
    browser.open(&format!("http://{rebound}"))?;
    let listen = format!("127.0.0.1:{}", rebinding.port);
    rebinding.end()?;
    let moved = Web::start(&stage, &["--control", "full", "--listen", &listen])?;
    let came = attempts(&browser, &rebound, moved.token())?;
    let refused = ["refused", "refused", "status 421", "status 421", "sent", "refused", "refused"];
    check(came == json!(refused), format!("by a foreign name: {came}"))?;
    drop(moved);
    assert!(is_running(&mut vm)?);

    // The same attempts from the page itself, so that they are known to work.
    browser.open(&web.url)?;
    browser.wait("document.getElementById('status').textContent == 'running'")?;
    let came = attempts(&browser, &host, token)?;
    let own = ["ran", "refused", "read", "read", "sent", "ran", "ran"];
    check(came == json!(own), format!("by the page itself: {came}"))?;
    assert!(!is_running(&mut vm)?);
    other.end()?;
    vm.quit()
}
