//! Splits a byte stream into JSON values and parses them, with QEMU's extensions, recovery and texts.
//!
//! QMP is a stream of JSON values, not of lines (QMP specification, 2.1): a value may span packets and
//! several may share one. The [`Splitter`] tracks brackets and strings only, so that its state is a few
//! words and a split at any byte changes nothing; [`serde_json`] then parses each whole value. As QEMU
//! does, strings may stand in single quotes, and an impossible byte (a control character, `\xFF`) ends a
//! broken value at once, so that a client can always get back in step.

use std::collections::VecDeque;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::{Error, Result};

/// The longest value in bytes; a longer one ends the stream.
pub const MAX_MESSAGE: usize = 16 << 20;
/// The deepest nesting of a value; a deeper one is skipped to its end. Below the 127 of `serde_json`,
/// which recurses.
pub const MAX_NESTING: u32 = 100;
/// The most brackets, commas and colons of a value: limits the memory of its parsed form.
const MAX_TOKENS: u32 = 1 << 20;

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Between tokens.
    Idle,
    /// Inside a number or keyword.
    Word,
    /// Inside a string that began with this quote.
    Text(u8),
    /// After a backslash inside a string.
    Escape(u8),
    /// After a lexical error, until something that can begin a token of its own.
    Recovery,
}

/// Splits the bytes that it is fed into values.
pub struct Splitter {
    state: State,
    /// The value so far, in plain JSON.
    value: Vec<u8>,
    braces: i32,
    brackets: i32,
    tokens: u32,
    /// The reason why the value that is being skipped is refused.
    skip: Option<&'static str>,
    done: VecDeque<Result<Value>>,
    too_long: bool,
    ended: bool,
}

impl Default for Splitter {
    fn default() -> Self {
        Splitter {
            state: State::Idle,
            value: Vec::new(),
            braces: 0,
            brackets: 0,
            tokens: 0,
            skip: None,
            done: VecDeque::new(),
            too_long: false,
            ended: false,
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.' | b'_')
}

impl Splitter {
    /// Takes the next bytes of the stream. After [`Splitter::is_ended`] they are ignored.
    pub fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.too_long {
                return;
            }
            self.push(byte);
        }
    }

    /// Ends the stream, which completes a last number or keyword.
    pub fn finish(&mut self) {
        self.ended = true;
        if self.state == State::Word && self.depth() == 0 {
            self.state = State::Idle;
            self.complete();
        }
    }

    /// Returns the next value in the stream, or the reason why it is refused.
    pub fn next_value(&mut self) -> Option<Result<Value>> {
        self.done.pop_front()
    }

    /// Returns true if no more values can follow: the stream was ended, or a value was longer than
    /// [`MAX_MESSAGE`].
    pub fn is_ended(&self) -> bool {
        self.ended || self.too_long
    }

    fn depth(&self) -> i32 {
        self.braces + self.brackets
    }

    fn keep(&mut self, byte: u8) {
        if self.skip.is_some() {
            return;
        }
        if self.value.len() == MAX_MESSAGE {
            self.too_long = true;
            self.done.push_back(Err(Error::generic("JSON token size limit exceeded")));
            self.value = Vec::new();
            return;
        }
        self.value.push(byte);
    }

    fn push(&mut self, byte: u8) {
        match self.state {
            State::Text(quote) => self.text(quote, byte),
            State::Escape(quote) => {
                self.state = State::Text(quote);
                match byte {
                    // JSON has no such escape, QEMU has.
                    b'\'' => self.keep(byte),
                    0..0x20 | 0xfe | 0xff => self.stray(byte),
                    _ => {
                        self.keep(b'\\');
                        self.keep(byte);
                    }
                }
            }
            State::Word if is_word(byte) => self.keep(byte),
            State::Word => {
                self.state = State::Idle;
                if self.depth() == 0 {
                    self.complete();
                }
                self.token(byte);
            }
            State::Recovery => {
                let resync = matches!(byte, b'{' | b'}' | b'[' | b']' | b':' | b',');
                if resync {
                    self.state = State::Idle;
                    self.token(byte);
                } else if byte < 0x20 && byte != b'\t' || byte >= 0xfe {
                    self.state = State::Idle;
                }
            }
            State::Idle => self.token(byte),
        }
    }

    fn text(&mut self, quote: u8, byte: u8) {
        match byte {
            b'\\' => self.state = State::Escape(quote),
            // UTF-8 never contains 0xfe and 0xff, so they can mean 'start over' even in a string.
            0..0x20 | 0xfe | 0xff => self.stray(byte),
            _ if byte == quote => {
                self.state = State::Idle;
                self.keep(b'"');
                if self.depth() == 0 {
                    self.complete();
                }
            }
            b'"' => {
                self.keep(b'\\');
                self.keep(byte);
            }
            _ => self.keep(byte),
        }
    }

    /// Handles a byte outside of strings and words.
    fn token(&mut self, byte: u8) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {
                if self.depth() > 0 {
                    self.keep(byte);
                }
            }
            b'"' | b'\'' => {
                self.state = State::Text(byte);
                self.keep(b'"');
            }
            b'{' | b'}' | b'[' | b']' | b':' | b',' => self.structure(byte),
            _ if is_word(byte) => {
                self.state = State::Word;
                self.keep(byte);
            }
            _ => self.stray(byte),
        }
    }

    fn structure(&mut self, byte: u8) {
        match byte {
            b'{' => self.braces += 1,
            b'}' => self.braces -= 1,
            b'[' => self.brackets += 1,
            b']' => self.brackets -= 1,
            _ => {}
        }
        self.keep(byte);
        self.tokens = self.tokens.saturating_add(1);
        if self.braces < 0 || self.brackets < 0 || self.depth() == 0 {
            return self.complete();
        }
        if self.depth() > MAX_NESTING as i32 {
            self.refuse("JSON nesting depth limit exceeded");
        } else if self.tokens > MAX_TOKENS {
            self.refuse("JSON token count limit exceeded");
        }
    }

    /// Gives up on the value but follows it to its end, so that it gets one error and not a flood.
    fn refuse(&mut self, why: &'static str) {
        self.skip.get_or_insert(why);
        self.value = Vec::new();
    }

    /// Refuses a byte that cannot be part of a token here.
    fn stray(&mut self, byte: u8) {
        let shown = char::from(byte).escape_default();
        self.reset();
        self.state = match byte {
            0..0x20 | 0xfe.. => State::Idle,
            _ => State::Recovery,
        };
        self.done.push_back(Err(Error::generic(format!("JSON parse error, stray '{shown}'"))));
    }

    fn complete(&mut self) {
        if self.too_long {
            return;
        }
        let result = match self.skip {
            Some(why) => Err(Error::generic(why)),
            None => parse(&self.value),
        };
        self.reset();
        self.done.push_back(result);
    }

    fn reset(&mut self) {
        self.value.clear();
        // One long message must not keep its memory for the life of the connection.
        self.value.shrink_to(64 << 10);
        (self.braces, self.brackets, self.tokens, self.skip) = (0, 0, 0, None);
    }
}

/// Parses one JSON value.
fn parse(bytes: &[u8]) -> Result<Value> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Err(Error::generic("JSON parse error, invalid UTF-8 sequence in string"));
    };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parsed = Strict.deserialize(&mut deserializer);
    parsed.and_then(|value| deserializer.end().map(|()| value)).map_err(|e| syntax_error(&e))
}

/// Translates an error of `serde_json` into QEMU's words.
fn syntax_error(e: &serde_json::Error) -> Error {
    let text = e.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    let text = match text {
        "expected value" | "trailing comma" => "expecting value",
        "key must be a string" => "key is not a string in object",
        "expected `:`" => "missing : in object pair",
        "expected `,` or `}`" => "expected separator in dict",
        "expected `,` or `]`" => "expected separator in list",
        "expected ident" => "invalid keyword",
        other => other,
    };
    Error::generic(format!("JSON parse error, {text}"))
}

/// Reads a [`Value`] and refuses duplicate keys, which `serde_json` alone would not notice.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E>(self, value: String) -> std::result::Result<Value, E> {
        Ok(value.into())
    }
    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> std::result::Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = access.next_element_seed(Strict)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> std::result::Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let value = access.next_value_seed(Strict)?;
            if object.insert(key, value).is_some() {
                return Err(de::Error::custom("duplicate key"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
