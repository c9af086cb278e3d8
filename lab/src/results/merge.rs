//! The results of all shards as one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::journal::difference;
use super::{Results, ResultsError};
use crate::record::{Outcome, RunInfo, SeriesPoint};
use crate::schedule::{Job, Shard};

/// Joins the results of the shards of an experiment. The order in which they are given does not matter, and
/// the result is what one machine would have written.
///
/// # Errors
/// If a shard is missing or given twice, or if two are of different experiments. The message names them.
pub fn merge(parts: Vec<(PathBuf, Results)>) -> Result<Results, ResultsError> {
    let fail = |text: String| Err(ResultsError::Merge(text));
    let mut shards: BTreeMap<Shard, (PathBuf, Results)> = BTreeMap::new();
    for (folder, part) in parts {
        let shard: Shard = part.info.shard.parse().map_err(ResultsError::Merge)?;
        if let Some((first, _)) = shards.get(&shard) {
            return fail(format!(
                "shard {shard} is given twice: {} and {}",
                first.display(),
                folder.display()
            ));
        }
        shards.insert(shard, (folder, part));
    }
    let Some((&first, (folder, part))) = shards.first_key_value() else {
        return fail("no shards are given".to_owned());
    };
    for (shard, (other, results)) in &shards {
        let mut info = results.info.clone();
        info.shard.clone_from(&part.info.shard);
        if let Some(what) = difference(&part.info, &info) {
            let (one, two) = (folder.display(), other.display());
            return fail(format!("{one} and {two} are not of one experiment: {what} differs"));
        }
        if shard.of != first.of {
            let (one, two) = (folder.display(), other.display());
            return fail(format!(
                "{one} is shard {first} and {two} is shard {shard}; give those of one division"
            ));
        }
    }
    let missing: Vec<String> = (1..=first.of)
        .map(|number| Shard { number, of: first.of })
        .filter(|shard| !shards.contains_key(shard))
        .map(|shard| shard.to_string())
        .collect();
    if !missing.is_empty() {
        let shown = missing.iter().take(20).cloned().collect::<Vec<_>>().join(", ");
        let more =
            if missing.len() > 20 { format!(" and {} more", missing.len() - 20) } else { String::new() };
        return fail(format!("{} of {} shards are missing: {shown}{more}", missing.len(), first.of));
    }
    let mut info = RunInfo { shard: Shard::ALL.to_string(), host: Vec::new(), ..part.info.clone() };
    let mut outcomes = BTreeMap::new();
    for (shard, (_, results)) in shards {
        let alone = shard.of == 1;
        info.host.extend(results.info.host.iter().map(|(key, value)| {
            (if alone { key.clone() } else { format!("{key} of shard {shard}") }, value.clone())
        }));
        outcomes.extend(outcomes_of(results));
    }
    Ok(Results::new(info, outcomes))
}

/// Takes results apart into runs.
fn outcomes_of(results: Results) -> BTreeMap<Job, Outcome> {
    let names: BTreeMap<String, usize> = results.info.strategies.iter().cloned().zip(0..).collect();
    let mut series: BTreeMap<Job, Vec<SeriesPoint>> = BTreeMap::new();
    let job =
        |point, strategy: &str, seed| names.get(strategy).map(|&strategy| Job { point, strategy, seed });
    for line in results.series {
        if let Some(job) = job(line.point, &line.strategy, line.seed) {
            series.entry(job).or_default().push(line);
        }
    }
    results
        .runs
        .into_iter()
        .filter_map(|record| {
            let job = job(record.point, &record.strategy, record.seed)?;
            Some((job, Outcome { record, series: series.remove(&job).unwrap_or_default() }))
        })
        .collect()
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
