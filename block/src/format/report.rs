//! The changes that a check of an image may make, and its result.

/// Maximum number of problems that are described; further ones are only counted.
const TOLD: usize = 1000;

/// The changes that a repair may make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repair {
    /// Lowers refcounts that are too high; truncates a QED file behind its last cluster in use. Safe on
    /// any image.
    Leaks,
    /// Also rewrites the refcounts if some are too low, makes flags match them, and gives entries that
    /// contradict themselves one meaning. In QED, a reference to a place where no cluster can be becomes
    /// absent, and a second reference to a cluster gets a copy.
    All,
}

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of errors in the metadata: data is in danger, or already lost.
    pub corruptions: u64,
    /// Number of clusters that are allocated but not referenced.
    pub leaks: u64,
    /// Number of corruptions that a repair fixed.
    pub corruptions_fixed: u64,
    /// Number of leaks that a repair fixed.
    pub leaks_fixed: u64,
    /// Number of clusters of the disk.
    pub total_clusters: u64,
    /// Number of clusters with data.
    pub allocated_clusters: u64,
    /// Number of clusters that do not follow the one before in the file; all compressed ones count.
    pub fragmented_clusters: u64,
    /// Number of compressed clusters.
    pub compressed_clusters: u64,
    /// The end of the last cluster in use, in bytes.
    pub image_end: u64,
    /// Descriptions of the problems, one line each; if there are many, the first ones.
    pub problems: Vec<String>,
}

impl Report {
    pub(crate) fn tell(&mut self, problem: impl FnOnce() -> String) {
        if self.problems.len() < TOLD {
            self.problems.push(problem());
        }
    }

    pub(crate) fn corruption(&mut self, problem: impl FnOnce() -> String) {
        self.corruptions += 1;
        self.tell(problem);
    }
}
