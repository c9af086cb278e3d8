//! The results of an experiment in a folder: `runs.csv`, `series.csv` and `run.json`.
//!
//! The files do not depend on the order in which runs ended, nor on the time or the machine; only `run.json`
//! names the host.
//!
//! - [`journal`]: what is finished of an experiment that still runs, or that was interrupted
//! - [`mod@merge`]: the results of all shards as one

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::record::{Outcome, RunInfo, RunRecord, SeriesPoint};
use crate::schedule::{Job, Shard, jobs};

pub mod journal;
pub mod merge;

pub use journal::Journal;
pub use merge::merge;

/// The name of the file with a line for each run.
pub const RUNS: &str = "runs.csv";
/// The name of the file with the course of each run.
pub const SERIES: &str = "series.csv";
/// The name of the file that describes the runs. It is written last, so a folder that has it is complete.
pub const INFO: &str = "run.json";

/// An error of a folder of results. It says where and what to do.
#[derive(Debug, Error)]
pub enum ResultsError {
    /// A file cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The operation, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {text}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The reason.
        text: String,
    },
    /// A folder has no results.
    #[error("{} has no results: {INFO} is missing", .0.display())]
    Missing(PathBuf),
    /// The runs of a folder are not all done.
    #[error("{} is not finished; 'cargo lab run' with --resume goes on", .0.display())]
    Unfinished(PathBuf),
    /// A folder has results already.
    #[error("{} has results already; choose another folder with --out, or go on with --resume", .0.display())]
    Exists(PathBuf),
    /// A folder has results of other runs than those that are to go on.
    #[error("{} has runs of another experiment: {what} differs; choose another folder with --out", path.display())]
    Other {
        /// The folder.
        path: PathBuf,
        /// The part that differs.
        what: &'static str,
    },
    /// Shards cannot be merged.
    #[error("{0}")]
    Merge(String),
}

impl ResultsError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| ResultsError::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn content(path: &Path, text: impl ToString) -> Self {
        ResultsError::Content { path: path.to_owned(), text: text.to_string() }
    }
}

/// The results of an experiment, or of a shard of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Results {
    /// The experiment and its surroundings.
    pub info: RunInfo,
    /// The runs, by point, strategy and seed.
    pub runs: Vec<RunRecord>,
    /// The course of each run, in the order of the runs.
    pub series: Vec<SeriesPoint>,
}

impl Results {
    /// Puts the outcomes of runs in the order of the results.
    pub fn new(mut info: RunInfo, outcomes: BTreeMap<Job, Outcome>) -> Results {
        info.runs = outcomes.len();
        let (runs, series): (Vec<_>, Vec<_>) =
            outcomes.into_values().map(|outcome| (outcome.record, outcome.series)).unzip();
        Results { info, runs, series: series.into_iter().flatten().collect() }
    }

    /// Writes the files of a folder, which is made if it is missing. Each file is complete or absent.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), ResultsError> {
        std::fs::create_dir_all(folder).map_err(ResultsError::io("create", folder))?;
        write_table(&folder.join(RUNS), &self.runs)?;
        write_table(&folder.join(SERIES), &self.series)?;
        let text = serde_json::to_string_pretty(&self.info)
            .map_err(|e| ResultsError::content(&folder.join(INFO), e))?;
        write_file(&folder.join(INFO), (text + "\n").as_bytes())
    }

    /// Reads the results of a folder.
    ///
    /// # Errors
    /// If it has none, if they are unfinished, or if a file cannot be read.
    pub fn read(folder: &Path) -> Result<Results, ResultsError> {
        let path = folder.join(INFO);
        if !path.exists() {
            let unfinished = folder.join(journal::NAME).exists();
            let folder = folder.to_owned();
            return Err(if unfinished {
                ResultsError::Unfinished(folder)
            } else {
                ResultsError::Missing(folder)
            });
        }
        let text = std::fs::read_to_string(&path).map_err(ResultsError::io("read", &path))?;
        let info: RunInfo = serde_json::from_str(&text).map_err(|e| ResultsError::content(&path, e))?;
        let runs: Vec<RunRecord> = read_table(&folder.join(RUNS))?;
        let series = read_table(&folder.join(SERIES))?;
        let results = Results { info, runs, series };
        results.check(folder)?;
        Ok(results)
    }

    /// Returns the jobs that these results have to consist of.
    pub fn expected(info: &RunInfo) -> Result<Vec<Job>, String> {
        let shard: Shard = info.shard.parse()?;
        Ok(jobs(info.points.len(), info.strategies.len(), &info.seeds, shard))
    }

    /// Fails if the runs are not those that `run.json` names.
    fn check(&self, folder: &Path) -> Result<(), ResultsError> {
        let wrong = |text: String| ResultsError::content(&folder.join(RUNS), text);
        let expected = Self::expected(&self.info).map_err(wrong)?;
        let missing = expected.iter().zip(&self.runs).find(|(job, run)| {
            let strategy = self.info.strategies.get(job.strategy);
            run.point != job.point || Some(&run.strategy) != strategy || run.seed != job.seed
        });
        if missing.is_some() || expected.len() != self.runs.len() {
            let (have, want) = (self.runs.len(), expected.len());
            return Err(wrong(format!("{INFO} names {want} runs, and these {have} are not all of them")));
        }
        Ok(())
    }
}

/// Writes a file under another name first, so that it is never seen in part.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), ResultsError> {
    let partial = path.with_extension("partial");
    let write = || {
        let mut file = std::fs::File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().map_err(|e| {
        // What is left of it would only fill the disk.
        let _ = std::fs::remove_file(&partial);
        ResultsError::io("write", path)(e)
    })
}

fn write_table<T: Serialize>(path: &Path, rows: &[T]) -> Result<(), ResultsError> {
    let mut writer = csv::Writer::from_writer(BufWriter::new(Vec::new()));
    for row in rows {
        writer.serialize(row).map_err(|e| ResultsError::content(path, e))?;
    }
    let buffer = writer.into_inner().map_err(|e| ResultsError::content(path, e))?;
    let bytes = buffer.into_inner().map_err(|e| ResultsError::content(path, e))?;
    write_file(path, &bytes)
}

fn read_table<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, ResultsError> {
    let file = std::fs::File::open(path).map_err(ResultsError::io("read", path))?;
    let rows = csv::Reader::from_reader(file).into_deserialize().collect::<Result<Vec<T>, _>>();
    rows.map_err(|e| ResultsError::content(path, e))
}

#[cfg(test)]
#[path = "results_tests.rs"]
mod tests;
