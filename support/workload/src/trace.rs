//! Recorded requests: our text form, fio's iolog, and the output of blkparse.

use std::fmt::Write;

use thiserror::Error;

use crate::{Kind, Op};

/// A line of a trace that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("line {line}: {text}")]
pub struct TraceError {
    /// The line's number, from 1.
    pub line: usize,
    /// The reason.
    pub text: String,
}

/// The form of a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// A line is `TIME KIND OFFSET LENGTH`: nanoseconds since the start; `read`, `write`, `flush` or `trim`;
    /// and bytes. Lines that begin with `#` are comments.
    Text,
    /// fio's iolog, version 2 or 3 (fio's HOWTO, "Trace file format"). Version 2 has no times: `wait` lines
    /// give microseconds from one to the next. Version 3 has microseconds since the start, and no `wait`.
    /// Only one file is read.
    Iolog,
    /// The default output of blkparse: queue events (`Q`) of one device, with seconds since the start,
    /// sectors of 512 bytes, and the operation's letters.
    Blkparse,
}

impl Form {
    /// Recognises a trace by its first lines; [`Form::Text`] unless it looks like another form.
    pub fn of(text: &str) -> Form {
        if text.starts_with("fio version") {
            return Form::Iolog;
        }
        let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#'));
        match first.and_then(|line| line.split_whitespace().next()) {
            Some(word) if word.contains(',') => Form::Blkparse,
            _ => Form::Text,
        }
    }
}

/// Reads a trace. The requests come in the order of the lines.
///
/// # Errors
/// The first line that cannot be read.
pub fn read(text: &str, form: Form) -> Result<Vec<Op>, TraceError> {
    match form {
        Form::Text => each_line(text, text_line),
        Form::Blkparse => each_line(text, blkparse_line),
        Form::Iolog => iolog(text),
    }
}

fn each_line(
    text: &str,
    mut parse: impl FnMut(&[&str]) -> Result<Option<Op>, String>,
) -> Result<Vec<Op>, TraceError> {
    let mut ops = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.is_empty() || words[0].starts_with('#') {
            continue;
        }
        let parsed = parse(&words).map_err(|text| TraceError { line: index + 1, text })?;
        ops.extend(parsed);
    }
    Ok(ops)
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("'{word}' is not a number"))
}

/// Makes a request, whose end must be a 64-bit offset.
fn op(at: u64, kind: Kind, offset: u64, len: u64) -> Result<Op, String> {
    offset.checked_add(len).ok_or("offset and length are too large")?;
    if kind != Kind::Flush && len == 0 {
        return Err("the length is 0".to_owned());
    }
    Ok(Op { at, kind, offset, len })
}

fn text_line(words: &[&str]) -> Result<Option<Op>, String> {
    let [at, kind, offset, len] = words else { return Err("give TIME KIND OFFSET LENGTH".to_owned()) };
    let kind = match *kind {
        "read" => Kind::Read,
        "write" => Kind::Write,
        "flush" => Kind::Flush,
        "trim" => Kind::Trim,
        other => return Err(format!("'{other}' is not read, write, flush or trim")),
    };
    op(number(at)?, kind, number(offset)?, number(len)?).map(Some)
}

/// Returns the nanoseconds of a time in seconds with up to nine digits behind the point.
fn seconds(word: &str) -> Result<u64, String> {
    let bad = || format!("'{word}' is not a time in seconds");
    let (whole, part) = word.split_once('.').unwrap_or((word, ""));
    if part.len() > 9 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let whole: u64 = whole.parse().map_err(|_| bad())?;
    let part: u64 = format!("{part:0<9}").parse().map_err(|_| bad())?;
    whole.checked_mul(1_000_000_000).and_then(|nanos| nanos.checked_add(part)).ok_or_else(bad)
}

/// `MAJOR,MINOR CPU SEQUENCE SECONDS PID ACTION RWBS SECTOR + COUNT [PROCESS]`
fn blkparse_line(words: &[&str]) -> Result<Option<Op>, String> {
    // Behind the events blkparse prints a summary.
    if words.len() < 7 || !words[0].contains(',') || words[5] != "Q" {
        return Ok(None);
    }
    let (at, letters) = (seconds(words[3])?, words[6]);
    let kind = if letters.contains('D') {
        Kind::Trim
    } else if letters.contains('R') {
        Kind::Read
    } else if letters.contains('W') {
        Kind::Write
    } else if letters.contains('F') {
        return op(at, Kind::Flush, 0, 0).map(Some);
    } else {
        return Ok(None);
    };
    match words.get(7..10) {
        Some([sector, "+", count]) => {
            let bytes = |word| number(word)?.checked_mul(512).ok_or("the sector is too large".to_owned());
            op(at, kind, bytes(sector)?, bytes(count)?).map(Some)
        }
        // A flush alone may be written as a write without sectors.
        _ if letters.contains('F') => op(at, Kind::Flush, 0, 0).map(Some),
        _ => Err("SECTOR + COUNT is missing".to_owned()),
    }
}

fn iolog(text: &str) -> Result<Vec<Op>, TraceError> {
    let version = match text.lines().next() {
        Some("fio version 2 iolog") => 2,
        Some("fio version 3 iolog") => 3,
        _ => return Err(TraceError { line: 1, text: "'fio version 2 iolog' or 3 is missing".to_owned() }),
    };
    let (mut now, mut file) = (0_u64, None::<String>);
    let body = text.split_once('\n').map_or("", |(_, body)| body);
    let parsed = each_line(body, |words| {
        let words = if version == 3 {
            now = number(words[0])?.checked_mul(1000).ok_or("the time is too large")?;
            &words[1..]
        } else {
            words
        };
        if let [name, "add" | "open" | "close"] = words {
            if file.get_or_insert_with(|| (*name).to_owned()) != name {
                return Err(format!("'{name}' is a second file; give a trace of one"));
            }
            return Ok(None);
        }
        let (action, offset, len) = match words {
            [_, action, offset, len] => (*action, number(offset)?, number(len)?),
            [_, action] => (*action, 0, 0),
            _ => return Err("give FILE ACTION [OFFSET LENGTH]".to_owned()),
        };
        let kind = match action {
            "read" => Kind::Read,
            "write" => Kind::Write,
            "trim" => Kind::Trim,
            "sync" | "datasync" => return op(now, Kind::Flush, 0, 0).map(Some),
            "wait" if version == 2 => {
                let wait = offset.checked_mul(1000).ok_or("the time is too large")?;
                now = now.checked_add(wait).ok_or("the time is too large")?;
                return Ok(None);
            }
            "wait" => return Err("version 3 has no 'wait': its lines begin with their times".to_owned()),
            other => return Err(format!("unknown action '{other}'")),
        };
        op(now, kind, offset, len).map(Some)
    });
    parsed.map_err(|error| TraceError { line: error.line + 1, ..error })
}

/// Writes a trace as text or as an iolog of version 3 for a file of this name. An iolog's times are whole
/// microseconds. `None` for [`Form::Blkparse`], which is only read.
pub fn write(ops: &[Op], form: Form, file: &str) -> Option<String> {
    let mut text = String::new();
    match form {
        Form::Text => {
            for Op { at, kind, offset, len } in ops {
                let kind = match kind {
                    Kind::Read => "read",
                    Kind::Write => "write",
                    Kind::Flush => "flush",
                    Kind::Trim => "trim",
                };
                writeln!(text, "{at} {kind} {offset} {len}").ok()?;
            }
        }
        Form::Iolog => {
            writeln!(text, "fio version 3 iolog\n0 {file} add\n0 {file} open").ok()?;
            for Op { at, kind, offset, len } in ops {
                let at = at / 1000;
                match kind {
                    Kind::Read => writeln!(text, "{at} {file} read {offset} {len}").ok()?,
                    Kind::Write => writeln!(text, "{at} {file} write {offset} {len}").ok()?,
                    Kind::Trim => writeln!(text, "{at} {file} trim {offset} {len}").ok()?,
                    Kind::Flush => writeln!(text, "{at} {file} sync 0 0").ok()?,
                }
            }
            let end = ops.last().map_or(0, |op| op.at / 1000);
            writeln!(text, "{end} {file} close").ok()?;
        }
        Form::Blkparse => return None,
    }
    Some(text)
}

#[cfg(test)]
#[path = "trace_tests.rs"]
mod tests;
