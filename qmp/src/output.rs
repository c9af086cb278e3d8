//! The lines that wait to be sent to one client, and the events that all clients get.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::rc::{Rc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use executor::sync::Event as Signal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

use crate::command::to_value;
use crate::event::{Event, EventsDropped};

/// The most bytes of events that wait for one client; later events are dropped and counted.
pub const MAX_EVENT_BYTES: usize = 1 << 20;
/// The number of bytes waiting for one client above which its next command has to wait.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// When an event happened, by the host's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since 1970; -1 if the clock is unusable.
    pub seconds: i64,
    /// Microseconds of that second; -1 if the clock is unusable.
    pub microseconds: i64,
}

impl Timestamp {
    fn now() -> Self {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(time) => Timestamp {
                seconds: i64::try_from(time.as_secs()).unwrap_or(-1),
                microseconds: time.subsec_micros().into(),
            },
            Err(_) => Timestamp { seconds: -1, microseconds: -1 },
        }
    }
}

/// An event as it stands on the wire (QMP specification, 2.5).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EventMessage {
    /// When it happened.
    pub timestamp: Timestamp,
    /// The name of the event.
    pub event: String,
    /// Its data; null if it has none.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub data: Value,
}

impl EventMessage {
    fn new<E: Event>(event: &E) -> Self {
        let mut data = to_value(event);
        if data.as_object().is_some_and(serde_json::Map::is_empty) {
            data = Value::Null;
        }
        EventMessage { timestamp: Timestamp::now(), event: E::NAME.to_owned(), data }
    }
}

/// A message as it is sent: one line, ended by CRLF as QEMU does.
pub(crate) fn line(message: &impl Serialize) -> Rc<str> {
    let mut text = Vec::new();
    // As for `to_value`: our own types always serialize, and memory takes all bytes.
    let _ = message.serialize(&mut Serializer::with_formatter(&mut text, Spaced));
    text.extend(b"\r\n");
    String::from_utf8(text).unwrap_or_default().into()
}

/// JSON with a space behind each comma and colon, as QEMU writes it (`qobject/json-writer.c`) and as the
/// examples of its documents show it: `{"return": {}}`. Some clients compare text.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.begin_array_value(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

struct Line {
    text: Rc<str>,
    is_event: bool,
}

/// The lines that wait to be sent to one client, in order.
#[derive(Default)]
pub(crate) struct Outbox {
    lines: RefCell<VecDeque<Line>>,
    bytes: Cell<usize>,
    event_bytes: Cell<usize>,
    dropped: Cell<u64>,
    negotiated: Cell<bool>,
    /// True if the client gets all events of our own.
    extra: Cell<bool>,
    closed: Cell<bool>,
    changed: Signal,
}

impl Outbox {
    fn push(&self, text: Rc<str>, is_event: bool) {
        if self.closed.get() {
            return;
        }
        self.bytes.set(self.bytes.get() + text.len());
        if is_event {
            self.event_bytes.set(self.event_bytes.get() + text.len());
        }
        self.lines.borrow_mut().push_back(Line { text, is_event });
        self.changed.notify();
    }

    /// Queues an answer. Answers are never dropped: the session waits for room before the next command.
    pub(crate) fn answer(&self, text: Rc<str>) {
        self.push(text, false);
    }

    fn event(&self, text: &Rc<str>) {
        if !self.negotiated.get() {
            return;
        }
        // Until the number of dropped events is reported, later events would appear before the gap.
        if self.dropped.get() > 0 || self.event_bytes.get() + text.len() > MAX_EVENT_BYTES {
            self.dropped.set(self.dropped.get() + 1);
        } else {
            self.push(text.clone(), true);
        }
    }

    /// Waits for the next line to send. Returns `None` once the outbox is closed.
    pub(crate) async fn next(&self) -> Option<Rc<str>> {
        loop {
            if self.closed.get() {
                return None;
            }
            if let Some(line) = self.lines.borrow().front() {
                return Some(line.text.clone());
            }
            self.changed.wait().await;
        }
    }

    /// Removes the line that [`Outbox::next`] returned, after it was sent.
    pub(crate) fn sent(&self) {
        let Some(line) = self.lines.borrow_mut().pop_front() else { return };
        self.bytes.set(self.bytes.get() - line.text.len());
        if line.is_event {
            self.event_bytes.set(self.event_bytes.get() - line.text.len());
        }
        // Not before half of the room is free: a client that reads slowly then gets few reports of many
        // dropped events, not one report for each.
        if self.dropped.get() > 0 && self.event_bytes.get() <= MAX_EVENT_BYTES / 2 {
            let count = self.dropped.take();
            self.push(self::line(&EventMessage::new(&EventsDropped { count })), true);
        }
        self.changed.notify();
    }

    /// Waits until there is room for the next command's answer. Returns at once if the client is gone.
    pub(crate) async fn room(&self) {
        while !self.closed.get() && self.bytes.get() > MAX_ANSWER_BYTES {
            self.changed.wait().await;
        }
    }

    /// Waits until everything is sent. Returns at once if the client is gone.
    pub(crate) async fn drained(&self) {
        while !self.closed.get() && !self.lines.borrow().is_empty() {
            self.changed.wait().await;
        }
    }

    /// Drops all lines, now and later: the client is gone, or must go.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.lines.borrow_mut().clear();
        self.changed.notify();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    pub(crate) fn set_negotiated(&self) {
        self.negotiated.set(true);
    }

    /// Sets whether the client gets the events of [`Events::emit_extra`], from now on.
    pub(crate) fn set_extra(&self, extra: bool) {
        self.extra.set(extra);
    }

    pub(crate) fn is_negotiated(&self) -> bool {
        self.negotiated.get()
    }
}

/// Sends events to all clients that have ended the negotiation. Clones send to the same clients.
#[derive(Clone, Default)]
pub struct Events {
    clients: Rc<RefCell<Vec<Weak<Outbox>>>>,
}

impl Events {
    /// Creates a sender that has no clients until a [`Monitor`](crate::Monitor) is made with it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends an event, without waiting: a client that does not read loses events, and gets their number
    /// ([`EventsDropped`]) when it reads again. An event that is sent before a command's method returns
    /// reaches the command's client before the answer.
    pub fn emit<E: Event>(&self, event: &E) {
        self.send(event, |_| true);
    }

    /// Like [`Events::emit`], but only to clients that have asked by `x-events` for all events of our
    /// own: for events that a client written for QEMU would not expect.
    pub fn emit_extra<E: Event>(&self, event: &E) {
        self.send(event, |client| client.extra.get());
    }

    fn send<E: Event>(&self, event: &E, to: impl Fn(&Outbox) -> bool) {
        let text = line(&EventMessage::new(event));
        for client in self.clients().iter().filter(|client| to(client)) {
            client.event(&text);
        }
    }

    pub(crate) fn add(&self, client: &Rc<Outbox>) {
        let mut clients = self.clients.borrow_mut();
        clients.retain(|client| client.strong_count() > 0);
        clients.push(Rc::downgrade(client));
    }

    pub(crate) fn clients(&self) -> Vec<Rc<Outbox>> {
        self.clients.borrow().iter().filter_map(Weak::upgrade).collect()
    }
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
