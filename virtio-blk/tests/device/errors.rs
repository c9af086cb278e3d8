//! Errors of the disk, by policy: reported, ignored, or kept until the machine is resumed.

use block::ErrorKind;
use block::disk::fake::Op;
use block::{ErrorAction, OnError};
use virtio::Device;
use virtio_bindings::virtio_blk::*;
use virtio_blk::IoError;

use super::rig::{Data, Posted, Rig, Setup};

const OK: u8 = VIRTIO_BLK_S_OK as u8;
const IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;

fn rig(on_read: OnError, on_write: OnError) -> Rig {
    Rig::new(Setup { on_read, on_write, ..Setup::default() })
}

fn fail(rig: &Rig, kind: Option<ErrorKind>) {
    rig.disk.with(move |disk| disk.fail.set(kind));
}

fn log(rig: &Rig) -> Vec<Op> {
    rig.disk.with(|disk| disk.log.take())
}

/// Returns the errors since the last call: true for a write, the action, and true if space was lacking.
fn told(rig: &Rig) -> Vec<(bool, ErrorAction, bool)> {
    let errors = std::mem::take(&mut *rig.errors.lock().unwrap());
    let tell = |error: IoError| {
        assert_eq!(error.node_name.as_deref(), Some("a leaf"));
        let words = if error.no_space { "No space left on device" } else { "Input/output error" };
        assert_eq!((error.reason.as_str(), error.detail.as_str()), (words, "as the test asked"));
        (error.write, error.action, error.no_space)
    };
    errors.into_iter().map(tell).collect()
}

/// Sends a request and waits until the disk has failed it and the device holds it back.
fn kept(rig: &mut Rig, kind: u32, data: Data) -> Posted {
    let before = rig.errors.lock().unwrap().len();
    let posted = rig.add(0, kind, 2, data);
    rig.drivers[0].publish();
    rig.disk.settle();
    let errors = rig.errors.lock().unwrap();
    assert_eq!(errors.len(), before + 1);
    assert_eq!(errors[before].action, ErrorAction::Stop);
    drop(errors);
    assert_unanswered(rig, &posted);
    posted
}

fn assert_unanswered(rig: &mut Rig, posted: &Posted) {
    assert_eq!(rig.drivers[0].pop_used(), None);
    assert_eq!(rig.status(posted), 0xff);
}

#[test]
fn reported_errors_are_told_to_both_sides() {
    let mut rig = rig(OnError::Report, OnError::Enospc);
    fail(&rig, Some(ErrorKind::Io));
    assert_eq!(rig.request(VIRTIO_BLK_T_IN, 0, Data::In(512)).0, IOERR);
    assert_eq!(rig.request(VIRTIO_BLK_T_OUT, 0, Data::Out(&[1; 512])).0, IOERR);
    assert_eq!(rig.request(VIRTIO_BLK_T_FLUSH, 0, Data::In(0)).0, IOERR);
    let report = |write| (write, ErrorAction::Report, false);
    assert_eq!(told(&rig), [report(false), report(true), report(true)]);
    // 'enospc' applies to writes; a read that lacks space is reported like any other error.
    fail(&rig, Some(ErrorKind::NoSpace));
    assert_eq!(rig.request(VIRTIO_BLK_T_IN, 0, Data::In(512)).0, IOERR);
    assert_eq!(told(&rig), [(false, ErrorAction::Report, true)]);
}

#[test]
fn ignored_errors_look_like_success() {
    let mut rig = rig(OnError::Ignore, OnError::Ignore);
    fail(&rig, Some(ErrorKind::Io));
    assert_eq!(rig.request(VIRTIO_BLK_T_IN, 0, Data::In(1024)), (OK, 1025, vec![0; 1024]));
    assert_eq!(rig.request(VIRTIO_BLK_T_OUT, 0, Data::Out(&[1; 512])), (OK, 1, vec![1; 512]));
    assert_eq!(rig.request(VIRTIO_BLK_T_FLUSH, 0, Data::In(0)).0, OK);
    let ignore = |write| (write, ErrorAction::Ignore, false);
    assert_eq!(told(&rig), [ignore(false), ignore(true), ignore(true)]);
    log(&rig);
    // Each segment is attempted.
    let segment = [[0; 8].as_slice(), &1u32.to_le_bytes(), &[0; 4]].concat();
    assert_eq!(rig.request(VIRTIO_BLK_T_DISCARD, 0, Data::Out(&segment.repeat(2))).0, OK);
    assert_eq!(log(&rig), [Op::Discard(0, 512), Op::Discard(0, 512)]);
    assert_eq!(told(&rig), [ignore(true)]);
}

#[test]
fn the_drivers_own_faults_are_no_matter_of_policy() {
    for policy in [OnError::Ignore, OnError::Stop] {
        let mut rig = rig(policy, policy);
        assert_eq!(rig.request(VIRTIO_BLK_T_IN, 1 << 40, Data::In(512)).0, IOERR);
        assert_eq!(rig.request(VIRTIO_BLK_T_OUT, 0, Data::Out(&[1; 5])).0, IOERR);
        assert_eq!(rig.request(77, 0, Data::In(512)).0, VIRTIO_BLK_S_UNSUPP as u8);
        rig.disk.with(|disk| disk.read_only.set(true));
        assert_eq!(rig.request(VIRTIO_BLK_T_OUT, 0, Data::Out(&[1; 512])).0, IOERR);
        assert_eq!(log(&rig), []);
        // The disk shrank after the device had checked its size.
        fail(&rig, Some(ErrorKind::OutOfRange));
        assert_eq!(rig.request(VIRTIO_BLK_T_IN, 0, Data::In(512)).0, IOERR);
        assert_eq!(told(&rig), []);
    }
}

#[test]
fn a_kept_request_is_no_one_s_to_wait_for_and_is_done_once_later() {
    for kind in [VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH] {
        let mut rig = rig(OnError::Stop, OnError::Stop);
        fail(&rig, Some(ErrorKind::Io));
        let data = match kind {
            VIRTIO_BLK_T_IN => Data::In(512),
            VIRTIO_BLK_T_OUT => Data::Out(&[0x42; 512]),
            _ => Data::In(0),
        };
        let posted = kept(&mut rig, kind, data);
        assert_eq!(told(&rig), [(kind != VIRTIO_BLK_T_IN, ErrorAction::Stop, false)]);

        // Drained, for a switch as well as for a pause.
        assert_eq!(rig.disk.with(|disk| disk.tickets()), 0);
        rig.disk.run(|disk| disk.drain());
        rig.disk.with(|disk| disk.open());
        rig.device.pause().wait().unwrap();
        rig.disk.settle();
        assert_unanswered(&mut rig, &posted);
        assert_eq!(log(&rig).len(), 1, "not tried again while stopped");

        // It fails again, which stops the machine again.
        rig.device.resume();
        rig.disk.settle();
        assert_eq!(told(&rig).len(), 1);
        assert_unanswered(&mut rig, &posted);
        rig.device.pause().wait().unwrap();

        fail(&rig, None);
        rig.device.resume();
        assert_eq!(rig.wait_used(0).0, posted.head);
        assert_eq!(rig.status(&posted), OK);
        rig.disk.settle();
        assert_eq!(rig.drivers[0].pop_used(), None);
        assert_eq!(log(&rig).len(), 2);
        assert_eq!(rig.disk.with(|disk| disk.tickets()), 0);
        rig.device.pause().wait().unwrap();
        rig.device.resume();
        assert_eq!(rig.request(VIRTIO_BLK_T_IN, 0, Data::In(512)).0, OK);
        assert_eq!(log(&rig).len(), 1, "nothing is left to be done again");
    }
}

#[test]
fn only_want_of_space_stops_enospc() {
    let mut rig = rig(OnError::Report, OnError::Enospc);
    fail(&rig, Some(ErrorKind::NoSpace));
    let first = kept(&mut rig, VIRTIO_BLK_T_OUT, Data::Out(&[0x42; 512]));
    let second = kept(&mut rig, VIRTIO_BLK_T_OUT, Data::Out(&[0x43; 512]));
    assert_eq!(told(&rig), [(true, ErrorAction::Stop, true); 2]);
    rig.device.pause().wait().unwrap();
    // Now it fails for another reason, which is reported, for the kept requests too.
    fail(&rig, Some(ErrorKind::Io));
    rig.device.resume();
    assert_eq!(rig.wait_used(0).0, first.head);
    assert_eq!(rig.wait_used(0).0, second.head);
    assert_eq!((rig.status(&first), rig.status(&second)), (IOERR, IOERR));
    assert_eq!(told(&rig), [(true, ErrorAction::Report, false); 2]);
}

#[test]
fn a_request_that_fails_during_the_pause_is_kept_too() {
    let mut rig = rig(OnError::Stop, OnError::Report);
    rig.disk.with(|disk| disk.hold.set(true));
    let posted = rig.add(0, VIRTIO_BLK_T_IN, 0, Data::In(512));
    rig.drivers[0].publish();
    rig.disk.run(|disk| disk.wait_held(1));
    let paused = rig.device.pause();
    fail(&rig, Some(ErrorKind::Io));
    rig.disk.with(|disk| disk.release_all());
    paused.wait().unwrap();
    assert_unanswered(&mut rig, &posted);
    assert_eq!(told(&rig).len(), 1, "told before the pause is answered");
    fail(&rig, None);
    rig.device.resume();
    assert_eq!(rig.wait_used(0).0, posted.head);
    assert_eq!(rig.status(&posted), OK);
}

#[test]
fn a_retry_waits_at_the_gate_and_lets_a_pause_pass() {
    let mut rig = rig(OnError::Stop, OnError::Report);
    fail(&rig, Some(ErrorKind::Io));
    let posted = kept(&mut rig, VIRTIO_BLK_T_IN, Data::In(512));
    rig.device.pause().wait().unwrap();
    fail(&rig, None);
    rig.disk.with(|disk| disk.close());
    rig.device.resume();
    rig.disk.settle();
    rig.device.pause().wait().unwrap();
    rig.disk.with(|disk| disk.open());
    rig.disk.settle();
    assert_unanswered(&mut rig, &posted);
    assert_eq!(rig.disk.with(|disk| disk.tickets()), 0);
    rig.device.resume();
    assert_eq!(rig.wait_used(0).0, posted.head);
}

#[test]
fn a_reset_drops_what_is_kept() {
    let mut rig = rig(OnError::Stop, OnError::Stop);
    for paused in [false, true] {
        fail(&rig, Some(ErrorKind::Io));
        let posted = kept(&mut rig, VIRTIO_BLK_T_OUT, Data::Out(&[0x42; 512]));
        if paused {
            rig.device.pause().wait().unwrap();
        }
        rig.device.reset();
        assert_unanswered(&mut rig, &posted);
        assert_eq!(rig.interrupts.counts().needs_reset, 0);
        log(&rig);
        fail(&rig, None);
        rig.activate();
        rig.device.resume();
        assert_eq!(rig.request(VIRTIO_BLK_T_IN, 0, Data::In(512)).0, OK);
        assert_eq!(log(&rig), [Op::Read(0, 512)], "the old request is not done");
    }
}

#[test]
fn after_a_reset_an_error_is_nobody_s() {
    let mut rig = rig(OnError::Stop, OnError::Stop);
    rig.disk.with(|disk| disk.hold.set(true));
    rig.add(0, VIRTIO_BLK_T_OUT, 0, Data::Out(&[0x42; 512]));
    rig.drivers[0].publish();
    rig.disk.run(|disk| disk.wait_held(1));
    fail(&rig, Some(ErrorKind::Io));
    // Dropping the device resets it without waiting.
    drop(super::lifecycle::take_device(&mut rig));
    rig.disk.with(|disk| disk.release_all());
    rig.disk.settle();
    assert_eq!(told(&rig), []);
    assert_eq!(rig.disk.with(|disk| disk.tickets()), 0);
    assert_eq!(rig.interrupts.counts().needs_reset, 0);
}
