//! `millrace image create`: what its options mean.

use block::Kind;
use block::image::{Create, Preallocation};

use super::super::Failure;
use super::super::options;

/// The keys of `-o` that a format knows.
fn keys(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Raw => &["preallocation", "size"],
        Kind::Qcow2 => &[
            "backing_file",
            "backing_fmt",
            "cluster_size",
            "compat",
            "compression_type",
            "extended_l2",
            "lazy_refcounts",
            "preallocation",
            "refcount_bits",
            "size",
        ],
        Kind::Qed => &["backing_file", "backing_fmt", "cluster_size", "preallocation", "size", "table_size"],
    }
}

/// What is asked for. `backing` is what `-b` and `-F` say.
pub(super) fn wish(
    kind: Kind,
    size: Option<u64>,
    backing: Option<(String, Kind)>,
    options: &[String],
) -> Result<Create, Failure> {
    let mut wish = Create::default();
    let (mut file, mut format) = (None, None);
    for list in options {
        for (key, value) in options::pairs(list)? {
            if !keys(kind).contains(&key.as_str()) {
                return Err(format!(
                    "-o {key}: not an option of {kind}, which has {}",
                    keys(kind).join(", ")
                ));
            }
            match key.as_str() {
                "cluster_size" => wish.cluster_size = Some(size_of(&key, &value)?),
                "size" => wish.size = Some(size_of(&key, &value)?),
                "extended_l2" => wish.extended_l2 = Some(one_of(&key, &value, &SWITCH)?),
                "lazy_refcounts" => wish.lazy_refcounts = Some(one_of(&key, &value, &SWITCH)?),
                "compat" => {
                    let versions = [("0.10", 2), ("v2", 2), ("1.1", 3), ("v3", 3)];
                    wish.version = Some(one_of(&key, &value, &versions)?);
                }
                "compression_type" => {
                    wish.zstd = Some(one_of(&key, &value, &[("zlib", false), ("zstd", true)])?);
                }
                "preallocation" => {
                    let modes = [
                        ("off", Preallocation::Off),
                        ("metadata", Preallocation::Metadata),
                        ("falloc", Preallocation::Falloc),
                        ("full", Preallocation::Full),
                    ];
                    wish.preallocation = one_of(&key, &value, &modes)?;
                }
                "refcount_bits" => {
                    let widths = [1, 2, 4, 8, 16, 32, 64].map(|bits: u32| (bits.to_string(), bits));
                    wish.refcount_bits = Some(one_of(&key, &value, &widths)?);
                }
                "table_size" => {
                    let sizes = [1, 2, 4, 8, 16].map(|clusters: u64| (clusters.to_string(), clusters));
                    wish.table_size = Some(one_of(&key, &value, &sizes)?);
                }
                "backing_file" => file = Some(value),
                // All that is left: the key is one of them.
                _ => {
                    let formats = [Kind::Raw, Kind::Qcow2, Kind::Qed].map(|kind| (kind.name(), kind));
                    format = Some(one_of(&key, &value, &formats)?);
                }
            }
        }
    }
    wish.size = size.or(wish.size);
    wish.backing = match (backing, file, format) {
        (backing, None, None) => backing,
        (None, Some(file), Some(format)) => Some((file, format)),
        (None, Some(_), None) => {
            return Err("-o backing_fmt=FORMAT is missing: formats are never guessed".into());
        }
        (None, None, Some(_)) => return Err("-o backing_file=FILE is missing".into()),
        (Some(_), _, _) => return Err("give the backing file by -b and -F or by -o, not by both".into()),
    };
    Ok(wish)
}

const SWITCH: [(&str, bool); 2] = [("on", true), ("off", false)];

fn size_of(key: &str, value: &str) -> Result<u64, Failure> {
    options::size(value).map_err(|e| format!("-o {key}: {e}"))
}

/// The choice that a value names.
fn one_of<T: Copy>(key: &str, value: &str, choices: &[(impl AsRef<str>, T)]) -> Result<T, Failure> {
    let found = choices.iter().find(|(name, _)| name.as_ref() == value);
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| name.as_ref()).collect();
        format!("-o {key}={value}: give one of {}", names.join(", "))
    })
}
