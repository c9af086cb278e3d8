//! The published strategies, and ours, as presets by name. Each says where it comes from, and whether shipped
//! code does the same or only the model.

use crate::policy::{Plan, Policy, Stale, Tee};
use crate::units;

mod adaptive;
mod disk;
mod ram;
mod stall;

pub use adaptive::Adaptive;
pub use disk::{Mirror, Rounds};
pub use ram::{AutoConverge, PreCopy, Threshold};
pub use stall::LocalMinimum;

/// A strategy of an experiment: presets for the disk, for the RAM, or for both.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Strategy {
    /// The name of the disk's preset.
    pub disk: Option<String>,
    /// The name of the RAM's preset.
    pub ram: Option<String>,
}

impl Strategy {
    /// Its name in results: `disk+ram`, or one of the two.
    pub fn name(&self) -> String {
        match (&self.disk, &self.ram) {
            (Some(disk), Some(ram)) => format!("{disk}+{ram}"),
            (Some(one), None) | (None, Some(one)) => one.clone(),
            (None, None) => String::new(),
        }
    }
}

/// The description of a preset, for `cargo lab list`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Described {
    /// The name; `(X)` stands for a value.
    pub name: &'static str,
    /// A description in half a sentence.
    pub does: &'static str,
    /// The publication or program that has it.
    pub source: &'static str,
    /// True if a job of this project does it, false if only the model does.
    pub shipped: bool,
}

const fn described(name: &'static str, does: &'static str, source: &'static str, shipped: bool) -> Described {
    Described { name, does, source, shipped }
}

/// The presets for disks.
pub const DISK: [Described; 17] = [
    described("stop-and-copy", "stops the guest, copies everything", "the baseline of every paper", false),
    described(
        "postcopy-seq",
        "moves at once, then copies from start to end",
        "Hirofuchi et al., CCGRID 2009 (xNBD)",
        true,
    ),
    described(
        "postcopy-hot",
        "moves at once, then copies what is used most first",
        "Zheng et al., VEE 2011",
        true,
    ),
    described(
        "postcopy-trace",
        "moves at once, then copies in the order of an earlier boot",
        "VMTorrent, CoNEXT 2012",
        true,
    ),
    described(
        "snapshot-delta",
        "copies a snapshot, then each delta, and consolidates",
        "ESX 3.5: Mashtizadeh et al., ATC 2011",
        false,
    ),
    described(
        "dbt",
        "copies in rounds over a frozen bitmap until little is left",
        "ESX 4: Mashtizadeh et al., ATC 2011",
        false,
    ),
    described(
        "dbt-hot-avoid",
        "as dbt, and leaves what is written most to the end",
        "ESX 4: Mashtizadeh et al., ATC 2011",
        false,
    ),
    described(
        "mirror-background",
        "copies, and copies again what was written",
        "QEMU mirror, copy-mode=background",
        true,
    ),
    described(
        "mirror-io",
        "writes to both sides what was copied already",
        "ESX 5: Mashtizadeh et al., ATC 2011",
        true,
    ),
    described(
        "mirror-all",
        "writes everything to both sides",
        "Hyper-V storage migration; QEMU write-blocking",
        false,
    ),
    described(
        "mirror-behind(W)",
        "as mirror-io; the guest waits only if W bytes are on their way",
        "XvMotion, ATC 2014",
        true,
    ),
    described(
        "mirror-cold",
        "as mirror-io, and copies first what is written least",
        "Zheng et al., VEE 2011",
        false,
    ),
    described(
        "mirror-throttle",
        "as mirror-background, and slows the guest's writes",
        "Bradford et al., VEE 2007",
        false,
    ),
    described(
        "adaptive",
        "as mirror-background until that stalls, then as mirror-io",
        "ours: docs/architecture.md, mirror",
        true,
    ),
    described(
        "three-phase",
        "copies once, moves with the bitmap of the rest, pulls it",
        "Luo et al., CLUSTER 2008",
        false,
    ),
    described(
        "hybrid(P)",
        "as mirror-io, moves when the share P was copied, pulls the rest",
        "Nicolae and Cappello, HPDC 2012",
        false,
    ),
    described(
        "compose",
        "sends writes to an overlay at the target, copies a snapshot, merges",
        "Xen SXM (xen-api, doc/content/xapi/storage/sxm)",
        false,
    ),
];

/// The presets for RAM.
pub const RAM: [Described; 7] = [
    described("stop", "stops the guest, sends everything", "the baseline of every paper", false),
    described("precopy", "sends rounds until the rest fits the limit", "Clark et al., NSDI 2005", false),
    described(
        "precopy-ramp",
        "as precopy, with a limit that grows every 10 s from 150 to 1050 ms",
        "KubeVirt VEP 291",
        false,
    ),
    described(
        "precopy-localmin",
        "as precopy; after a stall of 60 s, moves at a local minimum of at most 900 ms, or gives up",
        "KubeVirt VEP 248",
        false,
    ),
    described(
        "auto-converge",
        "as precopy, and slows the guest's CPUs more and more",
        "QEMU, docs/devel/migration",
        false,
    ),
    described(
        "postcopy",
        "moves at once, and fetches pages",
        "Hines, Deshpande and Gopalan, OSR 2009",
        false,
    ),
    described(
        "hybrid",
        "sends one round, moves, and fetches what was written since",
        "QEMU postcopy-ram after a first pass",
        false,
    ),
];

/// Returns the names of the disk presets without their values.
pub fn disk_names() -> Vec<&'static str> {
    DISK.iter().map(|preset| bare(preset.name)).collect()
}

/// Returns the names of the RAM presets.
pub fn ram_names() -> Vec<&'static str> {
    RAM.iter().map(|preset| preset.name).collect()
}

fn bare(name: &str) -> &str {
    name.split('(').next().unwrap_or(name)
}

/// Returns the text between the parentheses of a name, if it has them.
fn value(name: &str) -> Option<&str> {
    name.split_once('(')?.1.strip_suffix(')')
}

/// Returns the window of `mirror-behind(W)`, in bytes.
pub(crate) fn window(name: &str) -> Option<u64> {
    match name {
        "mirror-behind" => Some(64 << 20),
        _ => units::size(value(name)?).filter(|window| *window > 0),
    }
}

/// Returns the disk preset of this name, as in `hybrid(0.5)`.
pub fn disk(name: &str) -> Option<Box<dyn Policy + Send>> {
    let mirror = |tee, take, stale| Mirror::new(name, tee, take, stale);
    let plain = value(name).is_none() && !name.contains('(');
    Some(match bare(name) {
        "mirror-behind" => Box::new(mirror(Tee::Behind(window(name)?), Plan::Sequential, Stale::Copy)),
        "hybrid" => {
            let share: f64 = if plain { 0.5 } else { value(name)?.parse().ok()? };
            if !(0.0..=1.0).contains(&share) {
                return None;
            }
            Box::new(mirror(Tee::Active, Plan::ColdFirst, Stale::Pull).at_share(share))
        }
        _ if !plain => return None,
        "stop-and-copy" => Box::new(mirror(Tee::Background, Plan::Sequential, Stale::Copy).at_share(0.0)),
        "postcopy-seq" => Box::new(mirror(Tee::Background, Plan::Sequential, Stale::Pull).at_share(0.0)),
        "postcopy-hot" => Box::new(mirror(Tee::Background, Plan::HotFirst, Stale::Pull).at_share(0.0)),
        "postcopy-trace" => Box::new(mirror(Tee::Background, Plan::Trace, Stale::Pull).at_share(0.0)),
        "snapshot-delta" => Box::new(Rounds::new(name, Tee::Delta)),
        "dbt" => Box::new(Rounds::new(name, Tee::Background)),
        "dbt-hot-avoid" => Box::new(Rounds::new(name, Tee::Background).avoiding_hot()),
        "mirror-background" => Box::new(mirror(Tee::Background, Plan::Sequential, Stale::Copy)),
        "mirror-io" => Box::new(mirror(Tee::Active, Plan::Sequential, Stale::Copy)),
        "mirror-all" => Box::new(mirror(Tee::All, Plan::Sequential, Stale::Copy)),
        "mirror-cold" => Box::new(mirror(Tee::Active, Plan::ColdFirst, Stale::Copy)),
        "mirror-throttle" => Box::new(mirror(Tee::Background, Plan::Sequential, Stale::Copy).throttling()),
        "adaptive" => Box::new(Adaptive::new()),
        "three-phase" => Box::new(Rounds::new(name, Tee::Background).once()),
        "compose" => Box::new(mirror(Tee::Overlay, Plan::Sequential, Stale::Copy)),
        _ => return None,
    })
}

/// Returns the RAM preset of this name.
pub fn ram(name: &str) -> Option<Box<dyn Policy + Send>> {
    Some(match name {
        "stop" => Box::new(PreCopy::after(name, 0, Stale::Copy)),
        "precopy" => Box::new(PreCopy::until(name, Threshold::Limit)),
        "precopy-ramp" => Box::new(PreCopy::until(name, Threshold::ramp())),
        "precopy-localmin" => Box::new(LocalMinimum::new()),
        "auto-converge" => Box::new(AutoConverge::new()),
        "postcopy" => Box::new(PreCopy::after(name, 0, Stale::Pull)),
        "hybrid" => Box::new(PreCopy::after(name, 1, Stale::Pull)),
        _ => return None,
    })
}

#[cfg(test)]
#[path = "presets_tests.rs"]
mod tests;
