//! The splitter: values that do not depend on packets, QEMU's extensions, errors word for word, recovery.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn values(chunks: &[&[u8]]) -> Vec<std::result::Result<Value, String>> {
    let mut splitter = Splitter::default();
    for chunk in chunks {
        splitter.feed(chunk);
    }
    splitter.finish();
    std::iter::from_fn(|| splitter.next_value()).map(|value| value.map_err(|e| e.desc)).collect()
}

fn error(text: &[u8]) -> String {
    let mut all = values(&[text]);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0).unwrap_err()
}

#[test]
fn values_share_packets_and_span_them() {
    let all = values(&[br#"{"a":[1,2]}{"b":"}"} 17 "x"["#, b"]\r\ntr", b"ue"]);
    let expected = [json!({"a": [1, 2]}), json!({"b": "}"}), json!(17), json!("x"), json!([]), json!(true)];
    assert_eq!(all, expected.map(Ok));
}

#[test]
fn strings_may_stand_in_single_quotes() {
    let all = values(&[br#"{'a': 'it\'s "b" \\ \n', "c": "\'"}"#]);
    assert_eq!(all, [Ok(json!({"a": "it's \"b\" \\ \n", "c": "'"}))]);
}

#[test]
fn errors_have_qemus_words() {
    assert_eq!(error(br#"{"a":}"#), "JSON parse error, expecting value");
    assert_eq!(error(br#"{1:2}"#), "JSON parse error, key is not a string in object");
    assert_eq!(error(br#"{"a" 1}"#), "JSON parse error, missing : in object pair");
    assert_eq!(error(br#"{"a":1 "b":2}"#), "JSON parse error, expected separator in dict");
    assert_eq!(error(b"[1 2]"), "JSON parse error, expected separator in list");
    assert_eq!(error(br#"{"a":1,"a":2}"#), "JSON parse error, duplicate key");
    assert_eq!(error(b"}"), "JSON parse error, expecting value");
    assert_eq!(error(b"@"), "JSON parse error, stray '@'");
    assert_eq!(error(b"[\"\xc3\"]"), "JSON parse error, invalid UTF-8 sequence in string");
}

#[test]
fn the_stream_recovers_after_an_error() {
    // QEMU's `tests/qtest/qmp-test.c` breaks a server in these ways.
    for broken in
        [&b"{]\n"[..], b"{\xff", b"{\x01", b"{'bad \xff", b"{'a': 'b', 'id':'\n", b"%p\n", b"[}\n", b"\x00"]
    {
        let all = values(&[broken, b"{\"next\": 1}"]);
        assert!(all[0].is_err(), "{broken:?}: {all:?}");
        assert_eq!(all.last(), Some(&Ok(json!({"next": 1}))), "{broken:?}: {all:?}");
    }
}

#[test]
fn nesting_is_bounded_with_one_error() {
    let nested = |depth: usize| ["[".repeat(depth), "]".repeat(depth)].concat();
    assert!(values(&[nested(MAX_NESTING as usize).as_bytes()])[0].is_ok());
    for depth in [MAX_NESTING as usize + 1, 100_000] {
        assert_eq!(error(nested(depth).as_bytes()), "JSON nesting depth limit exceeded");
    }
    let all = values(&[nested(100_000).as_bytes(), b"1"]);
    assert_eq!(all[1], Ok(json!(1)));
}

#[test]
fn tokens_are_bounded() {
    let many = format!("[{}1]", "1,".repeat(MAX_TOKENS as usize));
    assert_eq!(error(many.as_bytes()), "JSON token count limit exceeded");
}

#[test]
fn a_value_that_is_too_long_ends_the_stream() {
    let mut splitter = Splitter::default();
    splitter.feed(b"\"");
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..64 {
        splitter.feed(&chunk);
    }
    splitter.feed(b"\" {}");
    assert!(splitter.is_ended());
    assert_eq!(splitter.next_value().unwrap().unwrap_err().desc, "JSON token size limit exceeded");
    assert!(splitter.next_value().is_none());
    assert!(splitter.value.capacity() == 0);
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Cuts at positions drawn as fractions of the length.
fn cut<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn any_split_gives_the_same_values(
        all in prop::collection::vec((any_value(), any::<bool>()), 0..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut text = String::new();
        for (value, pretty) in &all {
            text += &if *pretty { format!("{value:#}\r\n") } else { format!("{value} ") };
        }
        let expected: Vec<_> = all.into_iter().map(|(value, _)| Ok(value)).collect();
        prop_assert_eq!(&values(&cut(text.as_bytes(), &cuts)), &expected);
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        prop_assert_eq!(&values(&bytes), &expected);
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_splits_mean_nothing(
        bytes in prop::collection::vec(
            prop_oneof![any::<u8>(), prop::sample::select(&b"{}[]:,\"'\\ \n1tnu"[..])], 0..200,
        ),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        prop_assert_eq!(values(&[&bytes]), values(&cut(&bytes, &cuts)));
    }
}
