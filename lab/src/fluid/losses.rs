//! The cost of a party's death at an instant.
//!
//! A death means that a host and its disk are gone for good; for the link, that it is cut. The link's cost is
//! found by forking the run: the fork's link is cut, and the fork goes on for a few steps.

use super::Run;
use crate::meter::Loss;
use crate::policy::{Phase, Tee};
use crate::record::End;

/// Steps for which a fork goes on.
const STEPS: u32 = 4;

impl Run<'_> {
    /// The costs of the death of source, target and link now.
    pub(super) fn losses(&self) -> [Loss; 3] {
        [self.source_dies(), self.target_dies(), self.link_dies()]
    }

    fn source_dies(&self) -> Loss {
        let lacks = |part: &Option<super::Part>| {
            part.as_ref().is_some_and(|part| part.pulls && part.space.left() > 0.0)
        };
        match self.phase {
            Phase::Before | Phase::Stopped => match &self.disk {
                // With a shared disk only the guest's RAM is gone.
                None => Loss::Reboots,
                Some(part) => {
                    let both = matches!(part.tee, Tee::Active | Tee::All) && part.space.todo() <= 0.0;
                    if both { Loss::Reboots } else { Loss::Loses }
                }
            },
            Phase::After if lacks(&self.disk) => Loss::Loses,
            Phase::After if lacks(&self.ram) => Loss::Reboots,
            Phase::After | Phase::Done => Loss::Nothing,
        }
    }

    fn target_dies(&self) -> Loss {
        match self.phase {
            Phase::Before | Phase::Stopped => Loss::Restarts,
            // The newest data are there and nowhere else, as at any host that a guest lives on.
            Phase::After | Phase::Done if self.disk.is_some() => Loss::Loses,
            Phase::After | Phase::Done => Loss::Reboots,
        }
    }

    fn link_dies(&self) -> Loss {
        match self.phase {
            Phase::Done => return Loss::Nothing,
            // The source takes the guest up again.
            Phase::Stopped => return Loss::Restarts,
            Phase::Before | Phase::After => {}
        }
        let mut fork = self.clone();
        fork.samples = false;
        fork.cut_until = f64::INFINITY;
        for _ in 0..STEPS {
            if fork.end.is_none() {
                fork.step();
            }
        }
        let gave_up = matches!(fork.end, Some(End::Aborted | End::Failed));
        let lacks = fork.parts().any(|part| part.pulls && part.space.left() > 0.0);
        if fork.guest.stalled > self.guest.stalled || (self.phase == Phase::After && lacks) {
            Loss::Pauses
        } else if gave_up || (self.phase == Phase::Before && self.ram.is_some()) {
            // A stream of RAM has no way to go on; a copy of a disk goes on with its bitmap.
            Loss::Restarts
        } else {
            Loss::Nothing
        }
    }
}
