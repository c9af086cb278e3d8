//! A complete record of a monitor's conversation, with millrace or with QEMU.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Failure, STEP};

/// A monitor's socket, and all messages on it.
pub struct Session {
    stream: BufReader<UnixStream>,
    /// Commands, replies and events in the order of their arrival, without timestamps.
    pub said: Vec<Value>,
    /// The index of the last command in `said`.
    asked: usize,
}

impl Session {
    /// Waits for the socket, and negotiates capabilities.
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

    /// Reads until a message since the last command satisfies `is_last`.
    pub fn until(&mut self, is_last: impl Fn(&Value) -> bool) -> Result<(), Failure> {
        while !self.said.iter().skip(self.asked).any(&is_last) {
            let mut line = String::new();
            match self.stream.read_line(&mut line) {
                Ok(0) => return Err("the monitor hung up".into()),
                Ok(_) => {}
                Err(e) => {
                    let said = &self.said[self.said.len().saturating_sub(8)..];
                    return Err(format!("{e}; the last messages: {said:?}").into());
                }
            }
            let mut message: Value = serde_json::from_str(&line)?;
            if let Some(object) = message.as_object_mut() {
                object.remove("timestamp");
            }
            // Fields that only millrace has begin with `x-`; they are removed for comparisons with QEMU.
            if let Some(data) = message.get_mut("data").and_then(Value::as_object_mut) {
                data.retain(|key, _| !key.starts_with("x-"));
            }
            self.said.push(message);
        }
        Ok(())
    }

    /// Moves the reply to the last command behind the events: their order is left to chance, in QEMU
    /// too.
    pub fn settle(&mut self) {
        self.said[self.asked + 1..].sort_by_key(|message| message.get("return").is_some());
    }

    /// Sends a command and waits for the reply.
    pub fn ask(&mut self, command: &Value) -> Result<(), Failure> {
        self.asked = self.said.len();
        self.said.push(command.clone());
        let socket = self.stream.get_mut();
        socket.write_all(format!("{command}\n").as_bytes())?;
        self.until(|message| message.get("return").is_some() || message.get("error").is_some())
    }

    /// Sends a command and returns the reply, with its `return` or `error`.
    pub fn answer(&mut self, command: &str, arguments: Value) -> Result<Value, Failure> {
        self.ask(&json!({"execute": command, "arguments": arguments}))?;
        let mut answers = self.said[self.asked..].iter();
        let found = answers.find(|message| message.get("return").is_some() || message.get("error").is_some());
        found.cloned().ok_or_else(|| "no reply".into())
    }

    /// Waits for an event since the last command. Returns its data.
    pub fn event(&mut self, name: &str) -> Result<Value, Failure> {
        self.until(|message| message["event"] == name)?;
        let found = self.said[self.asked..].iter().find(|message| message["event"] == name);
        Ok(found.map(|event| event["data"].clone()).unwrap_or_default())
    }
}
