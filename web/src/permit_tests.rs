use super::allows;
use crate::options::Control::{Copy, Full, Jobs};

#[test]
fn each_group_allows_its_commands_and_those_of_the_groups_before() {
    for (command, least) in [
        ("query-block", None),
        ("x-query-flight", None),
        ("job-pause", Some(Jobs)),
        ("stop", Some(Jobs)),
        ("drive-mirror", Some(Copy)),
        ("block_stream", Some(Copy)),
        ("change", Some(Full)),
        ("quit", Some(Full)),
        ("human-monitor-command", Some(Full)),
    ] {
        for control in [None, Some(Jobs), Some(Copy), Some(Full)] {
            assert_eq!(allows(control, command), control >= least, "{command} with {control:?}");
        }
    }
}

#[test]
fn other_commands_are_never_allowed() {
    for command in
        ["nbd-server-start", "blockdev-add", "transaction", "eject", "query-", "", "QUIT", "x-events"]
    {
        assert!(!allows(Some(Full), command), "{command}");
    }
}
