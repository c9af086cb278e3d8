//! The rule for the ids that users choose: of devices, nodes, jobs, exports and credentials.

/// The longest name of a block node in bytes (QEMU: `char node_name[32]`, with its terminator).
const MAX_NODE_NAME: usize = 31;

/// Returns true if `id` is well-formed: an ASCII letter, then ASCII letters, digits, `-`, `.` and `_` (QEMU's
/// `id_wellformed`).
pub fn is_well_formed(id: &str) -> bool {
    id.starts_with(|first: char| first.is_ascii_alphabetic())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

/// Returns true if `name` can be a block node's: a well-formed id of at most 31 bytes.
pub fn is_node_name(name: &str) -> bool {
    name.len() <= MAX_NODE_NAME && is_well_formed(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_qemus() {
        for id in ["a", "virtio0", "Disk-1.snap_2"] {
            assert!(is_well_formed(id) && is_node_name(id), "{id}");
        }
        for id in ["", "0", "-a", "_a", ".a", "#block1", "my disk", "a/b", "a,b", "ä", "aä", "a\n"] {
            assert!(!is_well_formed(id), "{id:?}");
        }
        assert!(is_node_name(&"a".repeat(31)));
        assert!(!is_node_name(&"a".repeat(32)));
        assert!(is_well_formed(&"a".repeat(32)));
    }
}
