//! `millrace image create`: parses its options.

use std::collections::BTreeSet;

use block::Kind;
use block::image::{Create, Preallocation};

use super::super::Failure;
use super::super::options;

/// Returns true if the options ask for a list of the options, as with `qemu-img`.
pub(super) fn is_help(options: &[String]) -> bool {
    options.iter().any(|list| list == "help" || list == "?")
}

/// Prints the options of a format, one per line.
pub(super) fn print_help(kind: Kind) {
    println!("Options of {kind}:");
    for (key, text) in kind.create_options() {
        println!("  {key:<17} {text}");
    }
}

/// Converts the command line to options of the block layer. `backing` holds the values of `-b` and `-F`.
pub(super) fn options(
    kind: Kind,
    size: Option<u64>,
    backing: Option<(String, Kind)>,
    lists: &[String],
) -> Result<Create, Failure> {
    let mut options = Create::default();
    let (mut file, mut format) = (None, None);
    let mut given = BTreeSet::new();
    for list in lists {
        for (key, value) in options::pairs(list)? {
            let known = kind.create_options();
            if !known.iter().any(|(known, _)| *known == key) {
                let known: Vec<_> = known.iter().map(|(known, _)| *known).collect();
                return Err(format!("-o {key}: not an option of {kind}, which has {}", known.join(", ")));
            }
            if !given.insert(key.clone()) {
                return Err(format!("-o {key}: given twice"));
            }
            match key.as_str() {
                "cluster_size" => options.cluster_size = Some(size_of(&key, &value)?),
                "size" => options.size = Some(size_of(&key, &value)?),
                "extended_l2" => options.extended_l2 = Some(one_of(&key, &value, &SWITCH)?),
                "lazy_refcounts" => options.lazy_refcounts = Some(one_of(&key, &value, &SWITCH)?),
                "compat" => {
                    let versions = [("0.10", 2), ("v2", 2), ("1.1", 3), ("v3", 3)];
                    options.version = Some(one_of(&key, &value, &versions)?);
                }
                "compression_type" => {
                    options.zstd = Some(one_of(&key, &value, &[("zlib", false), ("zstd", true)])?);
                }
                "preallocation" => {
                    let modes = [
                        ("off", Preallocation::Off),
                        ("metadata", Preallocation::Metadata),
                        ("falloc", Preallocation::Falloc),
                        ("full", Preallocation::Full),
                    ];
                    options.preallocation = one_of(&key, &value, &modes)?;
                }
                "refcount_bits" => {
                    let widths = [1, 2, 4, 8, 16, 32, 64].map(|bits: u32| (bits.to_string(), bits));
                    options.refcount_bits = Some(one_of(&key, &value, &widths)?);
                }
                "table_size" => {
                    let sizes = [1, 2, 4, 8, 16].map(|clusters: u64| (clusters.to_string(), clusters));
                    options.table_size = Some(one_of(&key, &value, &sizes)?);
                }
                "backing_file" => file = Some(value),
                // The key is known, so only backing_fmt is left.
                _ => {
                    let formats: Vec<_> = Kind::ALL.iter().map(|kind| (kind.name(), *kind)).collect();
                    format = Some(one_of(&key, &value, &formats)?);
                }
            }
        }
    }
    options.size = size.or(options.size);
    options.backing = match (backing, file, format) {
        (backing, None, None) => backing,
        (None, Some(file), Some(format)) => Some((file, format)),
        (None, Some(_), None) => {
            return Err("-o backing_fmt=FORMAT is missing: formats are never guessed".into());
        }
        (None, None, Some(_)) => return Err("-o backing_file=FILE is missing".into()),
        (Some(_), _, _) => return Err("give the backing file by -b and -F or by -o, not by both".into()),
    };
    Ok(options)
}

const SWITCH: [(&str, bool); 2] = [("on", true), ("off", false)];

fn size_of(key: &str, value: &str) -> Result<u64, Failure> {
    options::size(value).map_err(|e| format!("-o {key}: {e}"))
}

/// Returns the choice that a value names.
fn one_of<T: Copy>(key: &str, value: &str, choices: &[(impl AsRef<str>, T)]) -> Result<T, Failure> {
    let found = choices.iter().find(|(name, _)| name.as_ref() == value);
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| name.as_ref()).collect();
        format!("-o {key}={value}: give one of {}", names.join(", "))
    })
}
