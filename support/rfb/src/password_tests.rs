use std::time::{Duration, SystemTime};

use super::*;

#[test]
fn eight_bytes_count_and_a_clone_sees_a_change() {
    let password = Password::new();
    let server = password.clone();
    assert_eq!((server.is_set(), server.key()), (false, None));
    password.set("foobar1").unwrap();
    assert_eq!(server.key(), Some(*b"foobar1\0"));
    password.set("longer than eight").unwrap();
    assert_eq!(server.key(), Some(*b"longer t"));
    assert_eq!(format!("{password:?}"), "Password { is_set: true }");
}

#[test]
fn an_empty_password_changes_nothing() {
    let password = Password::new();
    assert_eq!(password.set(""), Err(EmptyPassword));
    assert!(!password.is_set());
    password.set("foobar1").unwrap();
    assert_eq!(password.set(""), Err(EmptyPassword));
    assert_eq!(password.key(), Some(*b"foobar1\0"));
}

#[test]
fn an_expired_password_lets_nobody_in_until_its_time_is_moved() {
    let password = Password::new();
    password.set("foobar1").unwrap();
    password.expire(Some(SystemTime::now() - Duration::from_secs(1)));
    assert_eq!((password.is_set(), password.key()), (true, None));
    password.set("other").unwrap();
    assert_eq!(password.key(), None);
    password.expire(Some(SystemTime::now() + Duration::from_secs(3600)));
    assert!(password.key().is_some());
    password.expire(None);
    assert!(password.key().is_some());
}
