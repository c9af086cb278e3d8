//! No viewer gets in with a wrong password, and none at all while no password is set.

use harness::{Failure, check};
use rfb::Event;

use crate::rig::{Rig, VIEWERS};

#[test]
fn nobody_gets_in_with_a_wrong_password_or_while_none_is_set() -> Result<(), Failure> {
    for viewer in VIEWERS.into_iter().filter(|viewer| viewer.is_here()) {
        // A server of its own, so that one's failures do not slow down the next one.
        let rig = Rig::new(None)?;
        for set in [false, true] {
            if set {
                rig.password.set("foobar1")?;
            }
            let shown = rig.shown_by(viewer, "foobar2");
            let why = shown.err().ok_or(format!("{viewer:?} got in; a password was set: {set}"))?;
            println!("{viewer:?}: {why}");
            // It was refused, and did not fail for another reason.
            let events: Vec<Event> = rig.server.events.try_iter().collect();
            let tried = events.iter().any(|event| matches!(event, Event::Connected(_)));
            let inside = events.iter().any(|event| matches!(event, Event::Initialized(_)));
            check(tried && !inside, format!("{viewer:?} is refused: {events:?}"))?;
        }
        // The change counts for the next one.
        check(rig.shown_by(viewer, "foobar1").is_ok(), format!("{viewer:?} gets in now"))?;
    }
    Ok(())
}
