//! Streams of a single cluster, as `block_stream` of the 2011 API does them.

use std::rc::Rc;

use super::{Progress, drop_chain};
use crate::disk::job::{Job, JobKind};
use crate::disk::{Claim, Claimant, Disk};
use crate::image::copy::populate;
use crate::image::node::Node;
use crate::job::stream::StreamOptions;
use crate::turns::Turns;
use crate::{Error, ErrorKind, Result};

impl Disk {
    /// Populates the first absent cluster at or after the cursor. The offset of the result is that
    /// cluster's end, or the disk's size if nothing is left. The backing file is dropped when nothing is
    /// absent any more.
    ///
    /// # Errors
    /// `InUse` if a job or a switch has the disk, `Unsupported` for a read-only disk, and errors of copying.
    pub async fn stream_one(self: &Rc<Self>) -> Result<Progress> {
        let this = self.clone();
        // Runs to its end even if the caller goes away: the claim is held while anything is in flight.
        executor::to_the_end(async move { this.stream_one_now().await }).await
    }

    async fn stream_one_now(self: &Rc<Self>) -> Result<Progress> {
        let _claim = self.claim_single()?;
        let leaf = self.leaf();
        let size = leaf.size();
        let end = self.stream_cluster(&leaf, self.cursor.get()).await?;
        self.cursor.set(end);
        if end == size && leaf.backing().is_some() && leaf.next_absent(0..size, 1).await?.is_none() {
            drop_chain(self, &leaf, None).await?;
        }
        Ok(self.progress(end))
    }

    /// Populates the first absent cluster at or after `offset`, and leaves the cursor where it is.
    /// Returns the same as [`Disk::stream_one`], and the number of bytes that are still absent.
    ///
    /// # Errors
    /// As [`Disk::stream_one`].
    pub async fn stream_at(self: &Rc<Self>, offset: u64) -> Result<(Progress, u64)> {
        let this = self.clone();
        executor::to_the_end(async move { this.stream_at_now(offset).await }).await
    }

    async fn stream_at_now(self: &Rc<Self>, offset: u64) -> Result<(Progress, u64)> {
        // Held to the end, so that the image that is counted and completed is the one that was populated.
        let _claim = self.claim_single()?;
        let leaf = self.leaf();
        let end = self.stream_cluster(&leaf, offset.min(leaf.size())).await?;
        let (mut at, mut absent) = (0, 0);
        if leaf.backing().is_some() {
            let turns = Turns::default();
            while let Some(range) = leaf.next_absent(at..leaf.size(), u64::MAX).await? {
                turns.step().await;
                absent += range.end - range.start;
                at = range.end;
            }
            if absent == 0 {
                drop_chain(self, &leaf, None).await?;
            }
        }
        Ok((self.progress(end), absent))
    }

    fn claim_single(self: &Rc<Self>) -> Result<Claim> {
        self.check_streamable()?;
        let needs = StreamOptions::default().find(self)?.needs;
        self.claim(Claimant::Command("a stream"), needs, self.name())
    }

    /// Populates the first absent cluster at or after `offset`. Returns its end, or the size if nothing
    /// is left.
    async fn stream_cluster(&self, leaf: &Rc<Node>, offset: u64) -> Result<u64> {
        let size = leaf.size();
        if leaf.backing().is_none() {
            return Ok(size);
        }
        let Some(absent) = leaf.next_absent(offset..size, 1).await? else { return Ok(size) };
        let unit = leaf.cluster_size();
        let start = absent.start - absent.start % unit;
        let end = (start + unit).min(size);
        let populated = populate(leaf, start..end).await.map_err(|stopped| stopped.error)?;
        self.stats.populated(populated);
        Ok(end)
    }
}

/// The jobs that stream, for the commands of the 2011 API, which know one stream of a device.
impl Disk {
    /// Stops the background stream, and returns when the copies in flight are done. The image stays
    /// valid and keeps its backing file, unless the stream completes first. Of several streams, this is
    /// the one with the disk's name, else the one that was started first.
    ///
    /// # Errors
    /// `NotActive` if there is none, `InUse` if another caller waits for its stop.
    pub async fn stop_stream(self: &Rc<Self>) -> Result<()> {
        let jobs = self.streams();
        let named = jobs.iter().find(|job| job.id() == self.name()).or(jobs.first());
        let job = named.ok_or_else(|| {
            Error::new(ErrorKind::NotActive, format!("No active stream on device '{}'", self.name()))
        })?;
        job.stop(|| format!("The stream on device '{}' is being stopped already", self.name())).await
    }

    /// Returns the progress of each active background stream.
    pub fn query_stream(&self) -> Vec<Progress> {
        self.streams().iter().map(|job| self.progress(job.offset())).collect()
    }

    fn streams(&self) -> Vec<Rc<Job>> {
        self.active_jobs().into_iter().filter(|job| job.kind() == JobKind::Stream).collect()
    }
}
