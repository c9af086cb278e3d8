//! Tests of the whole agent, driven by its client over a socket pair, with files instead of devices.

use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use guest_agent::client::{Agent as Client, AgentError, Load, Region};
use guest_agent::pattern::{self, BLOCK, Stamp};
use tempfile::NamedTempFile;

use super::*;

const SEED: u64 = 5;
const SIZE: u64 = 1 << 20;

impl Line for UnixStream {
    fn drain(&self) -> io::Result<()> {
        Ok(())
    }
}

struct Guest {
    client: Client<UnixStream>,
    disk: NamedTempFile,
}

impl Guest {
    fn new() -> Self {
        // Beside the test program, because a temporary directory may not support direct I/O.
        let program = std::env::current_exe().expect("a path");
        let disk = NamedTempFile::new_in(program.parent().expect("a directory")).expect("a file");
        disk.as_file().set_len(SIZE).expect("a size");
        Guest { client: connect(), disk }
    }

    fn device(&self) -> String {
        self.disk.path().to_string_lossy().into_owned()
    }

    fn region(&self) -> Region {
        Region::new(&self.device(), 0, SIZE, SEED)
    }

    /// Overwrites a block behind the agent's back.
    fn tamper(&self, offset: u64, stamp: Option<Stamp>) {
        let mut block = vec![0; BLOCK];
        if let Some(stamp) = stamp {
            pattern::write(&mut block, stamp);
        }
        self.disk.as_file().write_all_at(&block, offset).expect("written");
        self.disk.as_file().sync_all().expect("flushed");
    }

    /// The kinds of damage that a verification finds.
    fn damage(&mut self) -> Vec<String> {
        match self.client.verify(&self.device()) {
            Ok(_) => Vec::new(),
            Err(AgentError::Damaged(report)) => report.faults.into_keys().collect(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// A client connected to a new agent.
fn connect() -> Client<UnixStream> {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let input = theirs.try_clone().expect("a second handle");
    thread::spawn(move || Agent::new().serve(input, theirs));
    Client::connect(ours, Duration::from_secs(10), Box::new(String::new)).expect("an agent")
}

#[test]
fn what_was_filled_is_there() {
    let mut guest = Guest::new();
    let region = guest.region();
    guest.client.fill(&region, 3).expect("filled");
    let report = guest.client.verify(&region.device).expect("verified");
    assert_eq!((report.blocks, report.oldest, report.newest), (SIZE / 4096, 3, 3));
    assert_eq!(guest.client.digest(&region.device).expect("a digest"), report.digest);
    assert_eq!(guest.client.size(&region.device).expect("a size"), SIZE);
    guest.client.fsync(&region.device).expect("flushed");
}

#[test]
fn each_damage_is_found_and_named() {
    let mut guest = Guest::new();
    let region = guest.region();
    guest.client.fill(&region, 3).expect("filled");
    let stamp = Stamp { offset: 8192, seq: 3, seed: SEED };
    let cases = [
        (None, "lost"),
        (Some(Stamp { seq: 2, ..stamp }), "stale"),
        (Some(Stamp { seq: 4, ..stamp }), "ahead"),
        (Some(Stamp { offset: 4096, ..stamp }), "misplaced"),
        (Some(Stamp { seed: 6, ..stamp }), "foreign"),
    ];
    for (written, kind) in cases {
        guest.tamper(8192, written);
        assert_eq!(guest.damage(), [kind]);
    }
    guest.tamper(8192, Some(stamp));
    assert_eq!(guest.damage(), [""; 0]);
}

#[test]
fn a_load_runs_beside_other_requests_and_leaves_what_it_wrote() {
    let mut guest = Guest::new();
    let region = guest.region();
    guest.client.fill(&region, 1).expect("filled");
    let load = Load { depth: 4, read_percent: 30, fsync_every: 64, ..Load::new(&region.device) };
    let job = guest.client.random_write(&load).expect("started");
    while guest.client.stat(job).expect("a report").total.count < 500 {}
    assert!(matches!(guest.client.verify(&region.device), Err(AgentError::Refused { .. })));
    let stat = guest.client.stop(job).expect("no errors");
    assert!(!stat.running && stat.reads > 0 && stat.writes > 0 && stat.flushes > 0, "{stat:?}");
    assert_eq!(stat.bytes, (stat.reads + stat.writes) * 4096);
    assert!(stat.total.p50_us <= stat.total.p99_us && stat.total.p99_us <= stat.total.max_us);
    let report = guest.client.verify(&region.device).expect("verified");
    assert!(report.newest > 1);

    // After a reboot: a new agent knows nothing, and finds the same.
    let mut later = connect();
    let digest = guest.client.digest(&region.device).expect("a digest");
    assert_eq!(later.verify_full(&region, 1).expect("verified").digest, digest);
    assert_eq!(later.verify(&region.device).expect("verified").digest, digest);
    assert!(matches!(later.verify_full(&region, report.newest + 1), Err(AgentError::Damaged(_))));
}

#[test]
fn a_load_ends_by_itself_and_reports_what_it_read_wrong() {
    let mut guest = Guest::new();
    let region = guest.region();
    guest.client.fill(&region, 1).expect("filled");
    let load = Load { operations: 100, ..Load::new(&region.device) };
    let job = guest.client.random_write(&load).expect("started");
    assert_eq!(guest.client.wait(job, Duration::from_secs(20)).expect("ended").writes, 100);
    for offset in (0..SIZE).step_by(BLOCK) {
        guest.tamper(offset, None);
    }
    let job = guest.client.random_write(&Load { read_percent: 100, ..load }).expect("started");
    let ended = guest.client.wait(job, Duration::from_secs(20));
    let error = ended.expect_err("reads of lost blocks");
    assert!(error.to_string().contains("lost"), "{error}");
}

#[test]
fn hashes_are_those_of_others() {
    let mut guest = Guest::new();
    let hash = guest.client.read_hash(&guest.device(), 0, 4096).expect("a hash");
    assert_eq!(hash, "ad7facb2586fc6e966c004d7d1d16b024f5805ff7cb47c7a85dabd8b48892ca7");
}

#[test]
fn bad_requests_are_refused() {
    let mut guest = Guest::new();
    let device = guest.device();
    let mut refused = |region: Region| match guest.client.fill(&region, 1) {
        Err(AgentError::Refused { text, .. }) => text,
        other => panic!("{other:?}"),
    };
    assert!(refused(Region::new("/dev/no-such", 0, 4096, 1)).contains("/dev/no-such"));
    assert!(refused(Region::new(&device, 0, SIZE + 4096, 1)).contains("past the device's end"));
    assert!(refused(Region::new(&device, u64::MAX - 4095, 4096, 1)).contains("past the device's end"));
    assert!(refused(Region::new(&device, 1, 4096, 1)).contains("multiples"));
    assert!(refused(Region::new(&device, 0, 0, 1)).contains("multiples"));
    let error = guest.client.random_write(&Load::new(&device)).expect_err("nothing was filled");
    assert!(error.to_string().contains("fill it first"), "{error}");
    let error = guest.client.call("dance", Fields::new(), Duration::from_secs(5)).expect_err("unknown");
    assert!(error.to_string().contains("unknown request dance"), "{error}");
}
