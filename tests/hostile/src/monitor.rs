//! Input of a monitor's client.

/// Parses the bytes as a stream of commands.
pub fn qmp(input: &[u8]) {
    qmp::read_commands(input, drop);
}

pub(crate) fn corpus() -> Vec<Vec<u8>> {
    [
        r#"{"execute": "qmp_capabilities"}"#,
        "{'execute': 'block_stream', 'arguments': {'device': 'virtio0', 'all': true}, 'id': [1, {}, null]}",
        r#"{"execute": "transaction", "arguments": {"actions": [{"type": "blockdev-snapshot-sync",
            "data": {"device": "a", "snapshot-file": "b\u00e9\n"}}], "properties": {}}}"#,
        r#"{"execute": "nbd-server-start", "arguments": {"addr": {"type": "inet",
            "data": {"host": "::1", "port": "10809"}}, "max-connections": 18446744073709551615}}"#,
        r#"{"execute": "block_resize", "arguments": {"size": -1e3, "node-name": "one"}} 1 "x" [[[]]]"#,
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}

/// A parsed value takes some dozen times the memory of its text, and much more if objects of one member
/// nest.
pub(crate) fn memory(input: usize) -> usize {
    (1 << 20) + 512 * input
}
