//! The experiment file: its sections, and the points of its sweep.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::assertion::Assertion;
use crate::event;
use crate::presets::{self, Strategy};
use crate::reader::{LabError, Source, Table, suggestion};
use crate::setup;

pub use crate::setup::{DEVICES, Device, Disk, Fault, Link, Party, Ram, Setup, When};

/// The tier that runs an experiment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tier {
    /// The model of regions and rates.
    #[default]
    Fluid,
    /// The block layer itself, on simulated devices in virtual time.
    Event,
}

impl Tier {
    /// All of them.
    pub const ALL: [Tier; 2] = [Tier::Fluid, Tier::Event];

    /// Returns the tier of this name.
    pub fn named(name: &str) -> Option<Tier> {
        Tier::ALL.into_iter().find(|tier| tier.name() == name)
    }

    /// Its name, as experiments write it.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Fluid => "fluid",
            Tier::Event => "event",
        }
    }
}

/// An experiment.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// Its name.
    pub name: String,
    /// The text of its file.
    pub text: String,
    /// The strategies that it compares: each disk strategy with each RAM strategy.
    pub strategies: Vec<Strategy>,
    /// The points of its sweep, at least one. All lists of the sweep are combined; the last one changes
    /// fastest.
    pub points: Vec<Point>,
    /// The seeds of its runs.
    pub seeds: Vec<u64>,
    /// True if each seed gives all strategies the same workload, so that they can be compared in pairs.
    pub pair: bool,
    /// The tier.
    pub tier: Tier,
    /// The conditions that make it a test.
    pub assertions: Vec<Assertion>,
}

/// A point of a sweep.
#[derive(Clone, Debug)]
pub struct Point {
    /// The keys that the sweep sets, and their values as the file writes them.
    pub settings: Vec<(String, String)>,
    /// Everything that runs at this point.
    pub setup: Setup,
}

impl Point {
    /// The values of this point: `key=value`, joined by blanks.
    pub fn label(&self) -> String {
        let pairs: Vec<String> = self.settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        pairs.join(" ")
    }
}

/// The most runs of an experiment: points times strategies times seeds.
const MOST_RUNS: usize = 1_000_000;

impl Experiment {
    /// Reads an experiment from the text of a file. `file` is for messages.
    ///
    /// # Errors
    /// The first unknown key or impossible value, with its line.
    pub fn parse(file: &str, text: &str) -> Result<Experiment, LabError> {
        let source = Source { file, text };
        let root = source.parse()?;
        let mut table = Table::new(source, "", 0..0, root.get_ref());
        let name = table.text("name", "a text", |text| Some(text.to_owned()))?;
        let name = name.ok_or_else(|| table.error("'name' is missing"))?;
        let (strategies, without_ram) = read_strategies(&mut table)?;
        let (seeds, pair, tier) = read_runs(&mut table)?;
        let points = read_points(source, root.get_ref(), &mut table)?;
        let assertions = match table.table("assert")? {
            Some(asserts) => Assertion::read_all(&asserts, &strategies)?,
            None => Vec::new(),
        };
        // The sections of the setup were read with the points.
        for key in setup::SECTIONS {
            table.value(key);
        }
        for point in &points {
            let lacks = |what| table_error(source, format!("a {what} strategy needs [{what}]"));
            if strategies.iter().any(|strategy| strategy.disk.is_some()) && point.setup.disk.is_none() {
                return Err(lacks("disk"));
            }
            if strategies.iter().any(|strategy| strategy.ram.is_some()) && point.setup.ram.is_none() {
                return Err(lacks("ram"));
            }
        }
        let ram_stays = strategies.iter().all(|strategy| strategy.ram.is_none()) && !without_ram;
        if ram_stays && points.iter().any(|point| point.setup.ram.is_some()) {
            let text = "has no effect without a RAM strategy: name one, as in ram = [\"precopy\"], leave [ram] out, \
                        or say by ram = [] that the RAM stays";
            return Err(table.error_at("ram", text));
        }
        table.finish()?;
        let runs = points.len().saturating_mul(strategies.len()).saturating_mul(seeds.len());
        if runs > MOST_RUNS {
            return Err(table_error(source, format!("{runs} runs are too many; at most {MOST_RUNS}")));
        }
        let text = text.to_owned();
        Ok(Experiment { name, text, strategies, points, seeds, pair, tier, assertions })
    }

    /// Checks that the experiment's tier can run it.
    ///
    /// # Errors
    /// The first strategy or value that it cannot run, with the reason.
    pub fn check_tier(&self) -> Result<(), String> {
        match self.tier {
            Tier::Fluid => Ok(()),
            Tier::Event => event::check(self),
        }
    }
}

fn table_error(source: Source<'_>, text: String) -> LabError {
    source.error(0..0, text)
}

/// Reads the strategies. The second value is true if the list of those for RAM is there and empty.
fn read_strategies(root: &mut Table<'_>) -> Result<(Vec<Strategy>, bool), LabError> {
    let Some(mut table) = root.table("strategies")? else {
        return Err(root.error("[strategies] is missing: name some, as in disk = [\"mirror-io\"]"));
    };
    let (disks, rams) = (table.texts("disk")?, table.texts("ram")?);
    let without_ram = rams.is_empty() && table.value("ram").is_some();
    let mut strategies = Vec::new();
    let unknown = |kind: &str, name: &str, names: Vec<&'static str>| {
        let hint = suggestion(name, names);
        format!("unknown {kind} strategy '{name}'{hint} ('cargo lab list' lists them)")
    };
    for (name, span) in &disks {
        if presets::disk(name).is_none() {
            return Err(table.source().error(span.clone(), unknown("disk", name, presets::disk_names())));
        }
    }
    for (name, span) in &rams {
        if presets::ram(name).is_none() {
            return Err(table.source().error(span.clone(), unknown("RAM", name, presets::ram_names())));
        }
    }
    let some = |list: Vec<(String, _)>| match list.is_empty() {
        true => vec![None],
        false => list.into_iter().map(|(name, _)| Some(name)).collect(),
    };
    let rams: Vec<Option<String>> = some(rams);
    for disk in some(disks) {
        for ram in &rams {
            let strategy = Strategy { disk: disk.clone(), ram: ram.clone() };
            if strategies.contains(&strategy) {
                return Err(table.error(format!("the strategy {} is named twice", strategy.name())));
            }
            strategies.push(strategy);
        }
    }
    if strategies == [Strategy { disk: None, ram: None }] {
        return Err(table.error("name a strategy, as in disk = [\"mirror-io\"]"));
    }
    table.finish()?;
    Ok((strategies, without_ram))
}

fn read_runs(root: &mut Table<'_>) -> Result<(Vec<u64>, bool, Tier), LabError> {
    let Some(mut table) = root.table("runs")? else { return Ok(((1..=5).collect(), true, Tier::Fluid)) };
    let seeds = table.whole("seeds", 1, 100_000)?.unwrap_or(5);
    let first = table.whole("first-seed", 0, 1_000_000_000_000_000)?.unwrap_or(1);
    let pair = table.flag("pair")?.unwrap_or(true);
    let tier = table.text("tier", "\"fluid\" or \"event\"", Tier::named)?;
    table.finish()?;
    Ok(((first..first + seeds).collect(), pair, tier.unwrap_or_default()))
}

/// Reads the setup once for each combination of the sweep's values.
fn read_points<'s>(
    source: Source<'s>,
    root: &DeTable<'s>,
    table: &mut Table<'s>,
) -> Result<Vec<Point>, LabError> {
    let mut combinations: Vec<Vec<(String, Spanned<DeValue<'s>>)>> = vec![Vec::new()];
    if let Some(sweep) = table.table("sweep")? {
        for (key, span, values) in sweep.entries() {
            let list = values.get_ref().as_array().filter(|list| !list.is_empty());
            let Some(list) = list else {
                return Err(source.error(span, format!("sweep of {key}: give a list of values")));
            };
            let section = key.split('.').next().unwrap_or(key);
            if !setup::SECTIONS.contains(&section) || key.matches('.').count() != 1 {
                let hint = suggestion(section, setup::SECTIONS);
                let text = format!("sweep of '{key}': give \"SECTION.KEY\", as in \"workload.rate\"{hint}");
                return Err(source.error(span, text));
            }
            let mut longer = Vec::new();
            for combination in combinations {
                for value in list.iter() {
                    let mut next = combination.clone();
                    next.push((key.to_owned(), value.clone()));
                    longer.push(next);
                }
            }
            combinations = longer;
            if combinations.len() > MOST_RUNS {
                return Err(source.error(span, format!("more than {MOST_RUNS} points")));
            }
        }
    }
    let mut points = Vec::new();
    for combination in combinations {
        let mut changed = root.clone();
        let mut settings = Vec::new();
        for (key, value) in combination {
            let (section, inner) = key.split_once('.').unwrap_or((&key, ""));
            let span = value.span();
            let text = source.text.get(span.clone()).unwrap_or("").trim_matches(['"', '\'']).to_owned();
            let section = section.to_owned();
            let entry = changed
                .entry(Spanned::new(span.clone(), section.into()))
                .or_insert_with(|| Spanned::new(span.clone(), DeValue::Table(DeTable::new())));
            if let DeValue::Table(table) = entry.get_mut() {
                let name = inner.to_owned();
                table.remove(name.as_str());
                table.insert(Spanned::new(span, name.into()), value);
            }
            settings.push((key, text));
        }
        points.push(Point { settings, setup: Setup::read(source, &changed)? });
    }
    Ok(points)
}

#[cfg(test)]
#[path = "experiment_tests.rs"]
mod tests;
