//! The copy: what it takes next, and what it does with it.

use std::ops::Range;
use std::rc::Rc;

use block::Result;

use super::{CHUNK, HOTTEST, Model};
use crate::policy::Plan;

impl Model {
    /// Copies a range from the side that it is read at to the one that it is written to.
    pub(super) async fn copy(&self, range: Range<u64>) -> Result<()> {
        let buf = self.pool.get((range.end - range.start) as usize);
        self.source.read(range.start, buf.clone()).await?;
        self.target.write(range.start, buf.clone()).await?;
        self.pool.put(buf);
        self.copied.set(self.copied.get() + range.end - range.start);
        Ok(())
    }

    fn heat(&self, granule: u64) -> u8 {
        let writes = self.heat.borrow()[granule as usize];
        (16 - writes.leading_zeros()).min(u32::from(HOTTEST)) as u8
    }

    /// The next granules to be copied, in the order of the plan.
    fn take(&self) -> Option<Range<u64>> {
        let todo = self.todo.borrow();
        if todo.count == 0 {
            return None;
        }
        let cold = self.plan.get() == Plan::ColdFirst;
        if !cold {
            self.level.set(HOTTEST);
        }
        let fits = |granule: u64, level: u8| (!cold || self.heat(granule) <= level) && !self.is_held(granule);
        // Each level once from where it is, and once from the start.
        for _ in 0..=2 * HOTTEST {
            let level = self.level.get();
            let mut at = self.cursor.get();
            while let Some(granule) = todo.next(at) {
                if fits(granule, level) {
                    let most = (CHUNK / self.granule).max(1);
                    let mut end = granule + 1;
                    while end < self.granules && end - granule < most && todo.has(end) && fits(end, level) {
                        end += 1;
                    }
                    self.cursor.set(end);
                    return Some(granule..end);
                }
                at = granule + 1;
            }
            if self.cursor.replace(0) == 0 {
                if level == HOTTEST && !cold {
                    return None;
                }
                self.level.set(if level == HOTTEST { 0 } else { level + 1 });
            }
        }
        None
    }

    /// Copies as long as there is something.
    pub(super) async fn copier(self: Rc<Self>) {
        while self.failed.borrow().is_none() {
            let taken = if self.works.get() { self.take() } else { None };
            let Some(range) = taken else {
                self.changed.wait().await;
                continue;
            };
            let hold = self.hold(range.clone()).await;
            for granule in range.clone() {
                self.todo.borrow_mut().set(granule, false);
            }
            let bytes = range.start * self.granule..(range.end * self.granule).min(self.size);
            let done = self.copy(bytes).await;
            for granule in range {
                self.fresh.borrow_mut().set(granule, false);
            }
            drop(hold);
            if let Err(error) = done {
                self.failed.replace(Some(error));
            }
        }
    }

    /// Waits until nothing is left to copy and nothing in flight.
    pub(super) async fn emptied(&self) {
        while self.todo.borrow().count > 0 || !self.held.borrow().is_empty() {
            self.changed.wait().await;
        }
    }
}
