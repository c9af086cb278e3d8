//! A monitor's conversation word for word, with our program or with QEMU's.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Failure, STEP};

/// A monitor's socket, and all that came from it.
pub struct Session {
    stream: BufReader<UnixStream>,
    /// Commands, answers and events, in the order in which they came, without their times.
    pub said: Vec<Value>,
    /// Where in it the last command is.
    asked: usize,
}

impl Session {
    /// Waits for the socket, and negotiates.
    pub fn connect(socket: &Path) -> Result<Self, Failure> {
        let deadline = Instant::now() + STEP;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(e) if Instant::now() > deadline => return Err(e.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        stream.set_read_timeout(Some(STEP))?;
        let mut session = Session { stream: BufReader::new(stream), said: Vec::new(), asked: 0 };
        session.until(|message| message.get("QMP").is_some())?;
        session.ask(&json!({"execute": "qmp_capabilities"}))?;
        (session.said, session.asked) = (Vec::new(), 0);
        Ok(session)
    }

    /// Reads on until such a message has come since the last command.
    pub fn until(&mut self, is_last: impl Fn(&Value) -> bool) -> Result<(), Failure> {
        while !self.said.iter().skip(self.asked).any(&is_last) {
            let mut line = String::new();
            match self.stream.read_line(&mut line) {
                Ok(0) => return Err("the monitor hung up".into()),
                Ok(_) => {}
                Err(e) => {
                    let said = &self.said[self.said.len().saturating_sub(8)..];
                    return Err(format!("{e}; the last that was said: {said:?}").into());
                }
            }
            let mut message: Value = serde_json::from_str(&line)?;
            if let Some(object) = message.as_object_mut() {
                object.remove("timestamp");
            }
            // What only we say has names that QEMU leaves to others.
            if let Some(data) = message.get_mut("data").and_then(Value::as_object_mut) {
                data.retain(|key, _| !key.starts_with("x-"));
            }
            self.said.push(message);
        }
        Ok(())
    }

    /// Whether what a command starts or its answer is faster is left to chance, in QEMU too.
    pub fn settle(&mut self) {
        self.said[self.asked + 1..].sort_by_key(|message| message.get("return").is_some());
    }

    /// Asks, and waits for the answer.
    pub fn ask(&mut self, command: &Value) -> Result<(), Failure> {
        self.asked = self.said.len();
        self.said.push(command.clone());
        let socket = self.stream.get_mut();
        socket.write_all(format!("{command}\n").as_bytes())?;
        self.until(|message| message.get("return").is_some() || message.get("error").is_some())
    }

    /// Asks, and returns what came back: `return` or `error`.
    pub fn answer(&mut self, command: &str, arguments: Value) -> Result<Value, Failure> {
        self.ask(&json!({"execute": command, "arguments": arguments}))?;
        let mut answers = self.said[self.asked..].iter();
        let found = answers.find(|message| message.get("return").is_some() || message.get("error").is_some());
        found.cloned().ok_or_else(|| "no answer".into())
    }

    /// Waits for an event, from the last command on, and returns its data.
    pub fn event(&mut self, name: &str) -> Result<Value, Failure> {
        self.until(|message| message["event"] == name)?;
        let found = self.said[self.asked..].iter().find(|message| message["event"] == name);
        Ok(found.map(|event| event["data"].clone()).unwrap_or_default())
    }
}
