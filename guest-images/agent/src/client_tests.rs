//! Tests of the client against a scripted agent at the other end of a socket pair.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use super::*;
use crate::wire::Request;

fn console() -> Console {
    Box::new(|| "last words".to_owned())
}

/// An agent that replies to each request with the result of `script`, in which `ID` stands for the
/// request's id.
fn scripted(script: impl Fn(&Request) -> String + Send + 'static) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    std::thread::spawn(move || {
        let mut writer = theirs.try_clone().expect("a second handle");
        for line in BufReader::new(theirs).lines().map_while(io::Result::ok) {
            if let Some(request) = Request::parse(&line) {
                let reply = script(&request).replace("ID", &request.id.to_string());
                if writer.write_all(reply.as_bytes()).is_err() {
                    return;
                }
            }
        }
    });
    ours
}

fn connect(script: impl Fn(&Request) -> String + Send + 'static) -> Agent<UnixStream> {
    let link = scripted(move |request| match request.verb.as_str() {
        "hello" => "\0noise\n* ready version=1\nID ok version=1 boot=a\n".to_owned(),
        _ => script(request),
    });
    Agent::connect(link, Duration::from_secs(5), console()).expect("an agent")
}

#[test]
fn answers_are_told_from_noise_and_from_late_answers() {
    let mut agent = connect(|_| "[  1.0] kernel\n1 ok bytes=1\nID progress x\nID ok bytes=4096\n".to_owned());
    assert_eq!(agent.size("/dev/vda").expect("a size"), 4096);
}

#[test]
fn who_is_not_understood_asks_again() {
    let heard = std::sync::atomic::AtomicU32::new(0);
    let link = scripted(move |_| match heard.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        0 => "ID err unknown request llo\n".to_owned(),
        _ => "ID ok version=1 boot=a\n".to_owned(),
    });
    assert!(Agent::connect(link, Duration::from_secs(5), console()).is_ok());
}

#[test]
fn a_refusal_is_quoted() {
    let mut agent = connect(|_| "ID err no such device\n".to_owned());
    let error = agent.fsync("/dev/vdz").expect_err("refused");
    assert_eq!(error.to_string(), "guest agent: fsync: no such device");
}

#[test]
fn silence_ends_with_the_console() {
    let mut agent = connect(|_| String::new());
    agent.set_patience(Duration::from_millis(20));
    let error = agent.uptime().expect_err("silence");
    assert!(matches!(&error, AgentError::Timeout { console, .. } if console == "last words"), "{error}");
}

#[test]
fn a_closed_line_ends_at_once() {
    let (link, other) = UnixStream::pair().expect("a socket pair");
    drop(other);
    let error = Agent::connect(link, Duration::from_secs(60), console()).err().expect("closed");
    assert!(matches!(error, AgentError::Line { .. }), "{error}");
}

#[test]
fn damage_is_an_error_that_tells_what() {
    let fields =
        "blocks=9 oldest=1 newest=2 digest=5 lost=0 stale=2 ahead=0 torn=1 misplaced=0 foreign=0 corrupt=0";
    let mut agent = connect(move |_| format!("ID progress offset 0 is torn\nID ok {fields}\n"));
    let error = agent.verify("/dev/vda").expect_err("damaged");
    assert_eq!(
        error.to_string(),
        "the guest's data is damaged: of 9 blocks, 2 stale, 1 torn; offset 0 is torn"
    );
}

#[test]
fn only_another_boot_ends_a_reboot() {
    let count = std::sync::atomic::AtomicU32::new(0);
    let link = scripted(move |_| match count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        // The first hello, the reboot request, and the last hello of the old boot.
        0 | 2 => "ID ok version=1 boot=a\n".to_owned(),
        1 => "ID ok\n".to_owned(),
        _ => "ID ok version=1 boot=b\n".to_owned(),
    });
    let mut agent = Agent::connect(link, Duration::from_secs(5), console()).expect("an agent");
    agent.reboot(Duration::from_secs(5)).expect("another boot");
    assert_eq!(agent.boot, "b");
}
