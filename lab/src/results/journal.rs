//! The finished runs of an experiment that still runs, or that was interrupted.
//!
//! The journal is one file that only grows: the description of the experiment, and then an entry for each
//! run in the order in which they ended. An entry is a line with its length and its checksum, and its bytes;
//! one that an interruption cut short is dropped when the experiment goes on.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{INFO, ResultsError};
use crate::record::{Outcome, RunInfo};
use crate::schedule::Job;

/// The name of the journal in a folder of results.
pub const NAME: &str = "unfinished.journal";

/// The least time between two syncs. Short runs would otherwise wait for the disk more than they compute.
const SYNC: Duration = Duration::from_secs(1);

/// The journal of an experiment that runs.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// The time of the last sync.
    synced: Option<Instant>,
    /// Makes durable what was written.
    sync: fn(&File) -> std::io::Result<()>,
}

impl Journal {
    /// Begins a journal in a folder, which is made if it is missing.
    ///
    /// # Errors
    /// If the folder has results or a journal already, or cannot be written.
    pub fn create(folder: &Path, info: &RunInfo) -> Result<Journal, ResultsError> {
        std::fs::create_dir_all(folder).map_err(ResultsError::io("create", folder))?;
        let path = folder.join(NAME);
        if path.exists() || folder.join(INFO).exists() {
            return Err(ResultsError::Exists(folder.to_owned()));
        }
        let file = OpenOptions::new().append(true).create_new(true).open(&path);
        let file = file.map_err(ResultsError::io("create", &path))?;
        let mut journal = Journal { path, file, synced: None, sync: File::sync_data };
        let text = serde_json::to_vec(info).map_err(|e| ResultsError::content(&journal.path, e))?;
        journal.entry(&text)?;
        // The name of the file has to last as well.
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(ResultsError::io("sync", folder))?;
        Ok(journal)
    }

    /// Opens the journal of a folder and returns the runs that it has. Begins one if there is none.
    ///
    /// # Errors
    /// If the folder is of another experiment, or cannot be read or written.
    pub fn resume(folder: &Path, info: &RunInfo) -> Result<(Journal, BTreeMap<Job, Outcome>), ResultsError> {
        let path = folder.join(NAME);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok((Journal::create(folder, info)?, BTreeMap::new()));
            }
            Err(e) => return Err(ResultsError::io("read", &path)(e)),
        };
        let (entries, whole) = entries(&bytes);
        let Some((head, rest)) = entries.split_first() else {
            // The interruption came before the first entry was complete.
            std::fs::remove_file(&path).map_err(ResultsError::io("remove", &path))?;
            return Ok((Journal::create(folder, info)?, BTreeMap::new()));
        };
        let old: RunInfo = serde_json::from_slice(head).map_err(|e| ResultsError::content(&path, e))?;
        if let Some(what) = difference(&old, info) {
            return Err(ResultsError::Other { path: folder.to_owned(), what });
        }
        let mut runs = BTreeMap::new();
        for entry in rest {
            let outcome = decode(entry).map_err(|e| ResultsError::content(&path, e))?;
            let record = &outcome.record;
            let strategy = info.strategies.iter().position(|name| *name == record.strategy);
            let strategy =
                strategy.ok_or_else(|| ResultsError::content(&path, "a run of an unknown strategy"))?;
            runs.insert(Job { point: record.point, strategy, seed: record.seed }, outcome);
        }
        let file = OpenOptions::new().append(true).open(&path).map_err(ResultsError::io("open", &path))?;
        file.set_len(whole as u64).map_err(ResultsError::io("shorten", &path))?;
        Ok((Journal { path, file, synced: None, sync: File::sync_data }, runs))
    }

    /// Adds a run. A power cut loses no more than the runs that were added within a second of the last sync.
    ///
    /// # Errors
    /// If it cannot be written. The journal keeps the runs before it.
    pub fn add(&mut self, outcome: &Outcome) -> Result<(), ResultsError> {
        let bytes = encode(outcome).map_err(|e| ResultsError::content(&self.path, e))?;
        self.entry(&bytes)
    }

    /// Removes the journal, when the results are written.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(self) -> Result<(), ResultsError> {
        std::fs::remove_file(&self.path).map_err(ResultsError::io("remove", &self.path))
    }

    fn entry(&mut self, bytes: &[u8]) -> Result<(), ResultsError> {
        let mut whole = format!("{} {:016x}\n", bytes.len(), checksum(bytes)).into_bytes();
        whole.extend_from_slice(bytes);
        whole.push(b'\n');
        self.file.write_all(&whole).map_err(ResultsError::io("write", &self.path))?;
        if self.synced.is_none_or(|time| time.elapsed() >= SYNC) {
            (self.sync)(&self.file).map_err(ResultsError::io("sync", &self.path))?;
            self.synced = Some(Instant::now());
        }
        Ok(())
    }
}

/// Names what keeps runs of one experiment from going on with, or beside, those of another.
pub fn difference(a: &RunInfo, b: &RunInfo) -> Option<&'static str> {
    let parts = [
        (a.text != b.text, "the experiment's file"),
        (a.version != b.version, "the version of the lab"),
        (a.tier != b.tier, "the tier"),
        (a.seeds != b.seeds, "the choice of seeds"),
        (a.strategies != b.strategies || a.points != b.points, "the choice of strategies"),
        (a.shard != b.shard, "the shard"),
    ];
    parts.into_iter().find(|(differs, _)| *differs).map(|(_, what)| what)
}

/// FNV-1a, 64 bits: against entries that were cut short, not against attackers.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// The entries that are whole, and the length of the part of the file that they fill.
fn entries(bytes: &[u8]) -> (Vec<&[u8]>, usize) {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some((entry, next)) = entry_at(bytes, at) {
        found.push(entry);
        at = next;
    }
    (found, at)
}

fn entry_at(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = bytes.get(at..)?;
    let line = rest.iter().take(64).position(|byte| *byte == b'\n')?;
    let (length, sum) = std::str::from_utf8(&rest[..line]).ok()?.split_once(' ')?;
    let (length, sum) = (length.parse::<usize>().ok()?, u64::from_str_radix(sum, 16).ok()?);
    let entry = rest.get(line + 1..)?.get(..length)?;
    let end = line.checked_add(length)?.checked_add(1)?;
    (rest.get(end) == Some(&b'\n') && checksum(entry) == sum).then_some((entry, at + end + 1))
}

/// A run as lines of CSV: its record, and then its series.
fn encode(outcome: &Outcome) -> Result<Vec<u8>, csv::Error> {
    let mut writer = csv::WriterBuilder::new().has_headers(false).flexible(true).from_writer(Vec::new());
    writer.serialize(&outcome.record)?;
    for point in &outcome.series {
        writer.serialize(point)?;
    }
    writer.into_inner().map_err(|e| e.into_error().into())
}

fn decode(bytes: &[u8]) -> Result<Outcome, String> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    let mut rows = reader.records();
    let first = rows.next().ok_or("an empty entry")?.map_err(|e| e.to_string())?;
    let record = first.deserialize(None).map_err(|e| e.to_string())?;
    let series = rows.map(|row| row?.deserialize(None)).collect::<Result<Vec<_>, _>>();
    Ok(Outcome { record, series: series.map_err(|e| e.to_string())? })
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
