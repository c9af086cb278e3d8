//! The copies of granules.

use std::ops::Range;
use std::rc::Rc;

use async_trait::async_trait;

use super::{FLUSH_EVERY, Replica};
use crate::disk::job::Job;
use crate::image::copy::{Populated, Stopped, copy_over};
use crate::job::copier::Work;
use crate::job::granules::LARGEST_HOLE;
use crate::{Error, Result};

#[async_trait(?Send)]
impl Work for Rc<Replica> {
    fn size(&self) -> u64 {
        self.granules.size()
    }

    fn unit(&self) -> u64 {
        self.granules.granule()
    }

    /// A mirror that takes its time copies more: again what the guest writes meanwhile.
    fn limit(&self) -> f64 {
        2.5
    }

    async fn next(&self, range: Range<u64>, most: u64) -> Result<Option<Range<u64>>> {
        Ok(self.granules.next(&range, most))
    }

    async fn look(&self, offset: u64, len: u64) -> Result<(u64, bool)> {
        self.granules.look(offset, len).await
    }

    async fn copy(&self, range: Range<u64>) -> std::result::Result<Populated, Stopped> {
        let whole = self.granules.whole(&range);
        // Else a target that is slow to flush would have much to lose.
        self.target.room(FLUSH_EVERY).await;
        let target = self.target.enter().await;
        let _lock = self.granules.locks.lock_for_job(whole.clone()).await;
        let _copying = self.granules.copying();
        self.granules.unmark(&whole);
        // Older writes to these granules, which are in the source, must not come after the copy.
        self.behind.settled(&whole).await;
        let _paced = self.pacer.copying();
        let copied = copy_over(self.granules.source(), &target.node, whole.clone()).await;
        self.copied.set(true);
        self.wrote(&whole);
        match &copied {
            Ok(done) => {
                let bytes = whole.end - whole.start;
                self.written.set(self.written.get() + bytes);
                self.cleaned.set(self.cleaned.get() + bytes);
                self.data.set(self.data.get() + done.copied + done.offloaded);
                self.pacer.copied(bytes);
            }
            Err(_) => self.mark(&whole),
        }
        copied
    }

    async fn flush(&self) -> Result<()> {
        // From then on it is done once, at the end.
        if self.both_flush.get() { Ok(()) } else { self.flush_target().await }
    }

    fn flush_every(&self, _gentle: bool) -> Option<u64> {
        // It flushes in the background by itself.
        None
    }

    fn may_pause(&self) -> bool {
        !self.hurries.get()
    }

    fn take_failure(&self) -> Option<Error> {
        self.take_error()
    }

    fn largest_hole(&self) -> u64 {
        LARGEST_HOLE
    }

    fn most_in_flight(&self) -> Option<u64> {
        self.buffer
    }

    fn report(&self, job: &Job, _: u64) {
        if job.is_completing() || job.is_leaving() {
            // Or a guest that writes all the time keeps the copier from an end.
            self.follow_to_the_end();
        }
        job.set_progress(self.written(), self.remaining());
    }
}
