//! A real browser, headless: Debian's chromium, driven over the W3C's WebDriver protocol.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::{Failure, STEP, wait_for};

/// The largest reply that is read, in bytes: a screenshot fits.
const LONGEST: u64 = 64 << 20;

/// A browser with one window. It ends when this value is dropped.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
}

impl Browser {
    /// Starts a browser with a window of this width, in pixels. Returns `None` if there is no chromium here.
    pub fn start(width: u32) -> Result<Option<Self>, Failure> {
        Self::start_with(width, &[])
    }

    /// The same, with further arguments for chromium.
    pub fn start_with(width: u32, more: &[&str]) -> Result<Option<Self>, Failure> {
        let mut command = Command::new("chromedriver");
        // Port 0 is any free one; the driver prints it.
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = match command.spawn() {
            Ok(driver) => driver,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(format!("chromedriver: {e}").into()),
        };
        let output = driver.stdout.take().ok_or("chromedriver has no output")?;
        let mut browser = Browser { driver, port: 0, session: String::new() };
        let mut lines = BufReader::new(output).lines();
        let port = lines.find_map(|line| {
            let line = line.ok()?;
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        browser.port = port.ok_or("chromedriver has not started")?;
        // Its output is read for as long as it runs, so that it never waits for that.
        std::thread::spawn(move || lines.for_each(drop));
        let size = format!("--window-size={width},1000");
        let mut arguments = vec![
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &size,
        ];
        arguments.extend(more);
        let options = json!({
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        });
        let session = browser.call("POST", "/session", &json!({"capabilities": {"alwaysMatch": options}}))?;
        session["sessionId"].as_str().ok_or("no session")?.clone_into(&mut browser.session);
        Ok(Some(browser))
    }

    /// Opens a page, and waits until it has loaded.
    pub fn open(&self, url: &str) -> Result<(), Failure> {
        self.command("POST", "/url", &json!({"url": url})).map(drop)
    }

    /// Runs the body of a JavaScript function in the page. Returns what it returns; promises are awaited.
    pub fn run(&self, script: &str) -> Result<Value, Failure> {
        self.command("POST", "/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Waits until an expression is true in the page.
    pub fn wait(&self, condition: &str) -> Result<(), Failure> {
        wait_for(condition, STEP, || Ok(self.run(&format!("return Boolean({condition})"))? == true))
    }

    /// Clicks at the element that a CSS selector finds, as a person would.
    pub fn click(&self, selector: &str) -> Result<(), Failure> {
        let element = self.find(selector)?;
        self.command("POST", &format!("/element/{element}/click"), &json!({})).map(drop)
    }

    /// Types into the element that a CSS selector finds.
    pub fn enter(&self, selector: &str, text: &str) -> Result<(), Failure> {
        let element = self.find(selector)?;
        self.command("POST", &format!("/element/{element}/value"), &json!({"text": text})).map(drop)
    }

    /// Presses keys one after the other, wherever the focus is. Keys without a character have the code points
    /// of WebDriver's table (section 17.4.2), such as U+E004 for Tab.
    pub fn press(&self, keys: &str) -> Result<(), Failure> {
        let strokes = keys.chars().flat_map(|key| {
            [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})]
        });
        self.act(strokes.collect())
    }

    /// Presses a key while another one is held down.
    pub fn press_with(&self, held: char, key: char) -> Result<(), Failure> {
        let strokes = [("keyDown", held), ("keyDown", key), ("keyUp", key), ("keyUp", held)];
        self.act(strokes.map(|(kind, key)| json!({"type": kind, "value": key})).into())
    }

    fn act(&self, strokes: Vec<Value>) -> Result<(), Failure> {
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": strokes});
        self.command("POST", "/actions", &json!({"actions": [keyboard]})).map(drop)
    }

    /// Shows the page as people with a deficiency of colour vision see it: `protanopia`, `deuteranopia`,
    /// `tritanopia`, `achromatopsia` or `none`.
    pub fn see_as(&self, deficiency: &str) -> Result<(), Failure> {
        self.devtools("Emulation.setEmulatedVisionDeficiency", &json!({"type": deficiency})).map(drop)
    }

    /// Returns role and name of everything that a screen reader would offer, in the page's order.
    pub fn accessible(&self) -> Result<Vec<(String, String)>, Failure> {
        let tree = self.devtools("Accessibility.getFullAXTree", &json!({}))?;
        let nodes = tree["nodes"].as_array().into_iter().flatten().filter(|node| node["ignored"] != true);
        let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        Ok(nodes.map(|node| (text(&node["role"]), text(&node["name"]))).collect())
    }

    fn find(&self, selector: &str) -> Result<String, Failure> {
        let found = self.command("POST", "/element", &json!({"using": "css selector", "value": selector}))?;
        // WebDriver, section 12: the name that marks a reference to an element.
        let element = found["element-6066-11e4-a52e-4f735466cecf"].as_str();
        Ok(element.ok_or_else(|| format!("no element {selector}"))?.to_owned())
    }

    /// Makes the page's view this wide, and as high as the page.
    pub fn fit(&self, width: u32) -> Result<(), Failure> {
        let set = |height: u64| {
            let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
            self.devtools("Emulation.setDeviceMetricsOverride", &size).map(drop)
        };
        set(800)?;
        let height = self.run("return document.documentElement.scrollHeight")?.as_u64().unwrap_or(800);
        set(height.clamp(800, 8000))
    }

    /// Makes the page dark or light, as a person's settings would.
    pub fn dark(&self, dark: bool) -> Result<(), Failure> {
        let value = if dark { "dark" } else { "light" };
        let features = json!([{"name": "prefers-color-scheme", "value": value}]);
        self.devtools("Emulation.setEmulatedMedia", &json!({"features": features})).map(drop)
    }

    /// Runs a command of Chromium's developer tools.
    fn devtools(&self, command: &str, parameters: &Value) -> Result<Value, Failure> {
        self.command("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// Writes a picture of the window to a PNG file.
    pub fn screenshot(&self, file: &Path) -> Result<(), Failure> {
        let picture = self.command("GET", "/screenshot", &Value::Null)?;
        let bytes = BASE64_STANDARD.decode(picture.as_str().unwrap_or_default())?;
        Ok(File::create(file)?.write_all(&bytes)?)
    }

    /// Returns the messages of the console since the last call: errors, warnings and violations of the page's
    /// policy.
    pub fn messages(&self) -> Result<Vec<String>, Failure> {
        let log = self.command("POST", "/se/log", &json!({"type": "browser"}))?;
        let messages = log.as_array().into_iter().flatten();
        Ok(messages.map(|entry| format!("{}: {}", entry["level"], entry["message"])).collect())
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Result<Value, Failure> {
        self.call(method, &format!("/session/{}{path}", self.session), body)
    }

    /// One request to the driver.
    fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value, Failure> {
        let started = Instant::now();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(STEP))?;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.port,
            body.len()
        )?;
        let mut reader = BufReader::new(stream.take(LONGEST));
        let mut length = None;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? <= 2 {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = Some(value.trim().parse()?);
            }
        }
        let mut text = vec![0; length.ok_or("the driver's reply has no length")?];
        reader.read_exact(&mut text).map_err(|e| format!("{path}: {e} after {:?}", started.elapsed()))?;
        let mut reply: Value = serde_json::from_slice(&text)?;
        match reply["value"]["error"].as_str() {
            Some(error) => Err(format!("{path}: {error}: {}", reply["value"]["message"]).into()),
            None => Ok(reply["value"].take()),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser too; the driver may be gone.
        let _ = self.command("DELETE", "", &Value::Null);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
