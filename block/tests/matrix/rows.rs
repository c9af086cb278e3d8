//! The options that `qemu-img create -o help` lists, and their legal combinations.

use crate::pairs::{self, Factor, Row};

/// Layers below the leaf, from the top.
const BELOW: &[&str] =
    &["-", "raw", "qcow2", "qed", "qcow2+raw", "qed+raw", "qcow2+qed", "qed+qcow2+raw", "qcow2+qed+qcow2"];
/// Those of them that are left out unless everything is tested.
const MORE_BELOW: &[&str] = &["qcow2+raw", "qed+raw", "qcow2+qed"];
/// Sizes of the layers below, compared with the leaf.
const SIZES: &[&str] = &["equal", "shorter", "longer"];

const QCOW2: &[Factor] = &[
    ("compat", &["1.1", "0.10"]),
    (
        "cluster_size",
        &["64k", "512", "1k", "2k", "4k", "8k", "16k", "32k", "128k", "256k", "512k", "1M", "2M"],
    ),
    ("refcount_bits", &["16", "1", "2", "4", "8", "32", "64"]),
    ("extended_l2", &["off", "on"]),
    ("compression_type", &["zlib", "zstd"]),
    ("lazy_refcounts", &["off", "on"]),
    ("preallocation", &["off", "metadata", "falloc", "full"]),
    ("compressed", &["no", "yes"]),
    ("below", BELOW),
    ("sizes", SIZES),
];

const QED: &[Factor] = &[
    ("cluster_size", &["64k", "4k", "8k", "16k", "256k", "1M"]),
    ("table_size", &["4", "2", "8", "16"]),
    ("below", BELOW),
    ("sizes", SIZES),
];

/// An image to create.
#[derive(Clone)]
pub struct Layout {
    pub format: &'static str,
    options: Vec<(&'static str, &'static str)>,
}

impl Layout {
    pub fn get(&self, name: &str) -> Option<&'static str> {
        self.options.iter().find(|(option, _)| *option == name).map(|(_, value)| *value)
    }

    /// Returns the options for `qemu-img -o`.
    pub fn text(&self) -> String {
        let created = |(name, _): &&(&str, &str)| !["compressed", "below", "sizes"].contains(name);
        let said: Vec<_> =
            self.options.iter().filter(created).map(|(name, value)| format!("{name}={value}")).collect();
        said.join(",")
    }

    /// Returns the formats of the layers below, from the top.
    pub fn below(&self) -> Vec<&'static str> {
        let said = self.get("below").unwrap_or("-");
        said.split('+').filter(|format| *format != "-").collect()
    }

    pub fn sizes(&self) -> &'static str {
        self.get("sizes").unwrap_or("equal")
    }

    pub fn compressed(&self) -> bool {
        self.get("compressed") == Some("yes")
    }

    pub fn name(&self) -> String {
        let said: Vec<_> = self.options.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{} {}", self.format, said.join(","))
    }
}

/// Returns true if QEMU allows the row, which may be incomplete.
fn legal(factors: &[Factor], row: &[&str]) -> bool {
    let is = |name: &str, values: &[&str]| {
        let value = factors.iter().zip(row).find(|((factor, _), _)| *factor == name).map(|(_, value)| value);
        value.is_some_and(|value| values.contains(value))
    };
    let is_not = |name: &str, plain: &str| {
        let value = factors.iter().zip(row).find(|((factor, _), _)| *factor == name).map(|(_, value)| value);
        value.is_some_and(|value| *value != plain)
    };
    // Version 2 lacks what came with version 3.
    let too_old = is("compat", &["0.10"])
        && (is_not("refcount_bits", "16")
            || is_not("extended_l2", "off")
            || is_not("compression_type", "zlib")
            || is_not("lazy_refcounts", "off"));
    let too_small = is("extended_l2", &["on"]) && is("cluster_size", &["512", "1k", "2k", "4k", "8k"]);
    let preallocated = is_not("preallocation", "off");
    let twice = preallocated && is_not("below", "-") && is("extended_l2", &["off"]);
    // qemu-img convert refuses it.
    let squeezed = preallocated && is("compressed", &["yes"]);
    !(too_old || too_small || twice || squeezed)
}

fn layouts(format: &'static str, factors: &[Factor], rows: Vec<Row>) -> Vec<Layout> {
    let layout = |row: Row| Layout {
        format,
        options: factors.iter().zip(row).map(|((name, _), value)| (*name, value)).collect(),
    };
    rows.into_iter().map(layout).collect()
}

/// Returns the whole product, or every pair of values.
pub fn all(full: bool) -> Vec<Layout> {
    let rows = |factors: &[Factor]| match full {
        true => pairs::product(factors, |row| legal(factors, row)),
        false => pairs::pairwise(factors, |row| {
            legal(factors, row) && !row.iter().any(|value| MORE_BELOW.contains(value))
        }),
    };
    [layouts("qcow2", QCOW2, rows(QCOW2)), layouts("qed", QED, rows(QED))].concat()
}

/// Returns any layout of this format, for a layer with or without layers below it.
pub fn any(format: &'static str, backed: bool, random: &mut crate::support::Random) -> Layout {
    let factors = match format {
        "qcow2" => QCOW2,
        "qed" => QED,
        _ => &[],
    };
    loop {
        let row: Row = (factors.iter())
            .map(|(name, values)| match *name {
                "below" if backed => "raw",
                "below" => "-",
                _ => values[random.below(values.len() as u64) as usize],
            })
            .collect();
        if legal(factors, &row) {
            return layouts(format, factors, vec![row]).remove(0);
        }
    }
}
