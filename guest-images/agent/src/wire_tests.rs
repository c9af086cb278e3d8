//! Tests that lines are parsed into values, and that noise is ignored.

use super::*;

#[test]
fn a_request_is_read() {
    let request = Request::parse("12 fill dev=/dev/vda offset=0\r\n").expect("a request");
    assert_eq!((request.id, request.verb.as_str()), (12, "fill"));
    assert_eq!(request.fields.text("dev"), Ok("/dev/vda"));
    assert_eq!(request.fields.number::<u64>("offset"), Ok(0));
    assert!(request.fields.number::<u64>("dev").is_err());
    assert!(request.fields.number::<u64>("length").is_err());
    assert_eq!(request.fields.number_or("length", 9), Ok(9));
}

#[test]
fn replies_are_read() {
    assert_eq!(Reply::parse("* ready version=1"), Some(Reply::Ready));
    assert_eq!(Reply::parse("3 ok"), Some(Reply::Ok(3, Fields::new())));
    assert_eq!(Reply::parse("3 ok a=1"), Some(Reply::Ok(3, Fields::new().with("a", 1))));
    assert_eq!(Reply::parse("3 err no such file"), Some(Reply::Err(3, "no such file".into())));
    assert_eq!(Reply::parse("3 progress a b"), Some(Reply::Progress(3, "a b".into())));
}

#[test]
fn noise_is_ignored() {
    for line in ["", "\0\0", "ok", "x ok", "3 maybe", "[    0.0] Linux version"] {
        assert_eq!(Reply::parse(line), None, "{line:?}");
    }
    assert_eq!(Request::parse("hello"), None);
}
