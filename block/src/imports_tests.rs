//! The order of this crate's folders, in which a request falls: none imports from a folder above it.
//!
//! The source is read as text: `use` declarations and paths in code, re-exports followed to the file that
//! defines a name. A file `foo.rs` belongs to the folder `foo/`. Tests are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// From the top down. `sim` is storage for tests: only tests use it.
const ORDER: [&str; 7] = ["job", "disk", "image", "format", "sim", "storage", "io"];

/// The path of a module or of a name, as in `["disk", "gate"]`.
type Name = Vec<String>;

/// The files of the crate, by their modules.
struct Sources {
    files: BTreeMap<Name, String>,
    /// The names that a file hands on, and where they come from.
    reexports: BTreeMap<Name, Name>,
}

impl Sources {
    fn read(folder: &Path) -> Self {
        let mut sources = Sources { files: BTreeMap::new(), reexports: BTreeMap::new() };
        sources.read_folder(folder, &[]);
        for (module, text) in &sources.files {
            for (at, _) in text.match_indices("pub use ").chain(text.match_indices("pub(crate) use ")) {
                let declaration = text[at..].split_once("use ").map_or("", |(_, rest)| rest);
                for path in paths(declaration) {
                    let to = absolute(module, &path).unwrap_or_else(|| [&module[..], &path].concat());
                    let name = path.last().cloned().unwrap_or_default();
                    sources.reexports.insert([&module[..], &[name]].concat(), to);
                }
            }
        }
        sources
    }

    fn read_folder(&mut self, folder: &Path, module: &[String]) {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            if name == "tests" || name.ends_with("_tests") {
                continue;
            }
            let inner = if name == "lib" { Vec::new() } else { [module, &[name]].concat() };
            if path.is_dir() {
                self.read_folder(&path, &inner);
            } else {
                self.files.insert(inner, code(&std::fs::read_to_string(&path).unwrap()));
            }
        }
    }

    /// Returns the file that defines a name, or holds the code of a path.
    fn file_of(&self, name: &[String]) -> Name {
        let mut name = name.to_vec();
        // A re-export of a re-export is followed, a circle of them is not.
        for _ in 0..8 {
            let known = (0..=name.len()).rev().find(|n| self.files.contains_key(&name[..*n])).unwrap_or(0);
            match self.reexports.get(&name[..name.len().min(known + 1)]) {
                Some(to) if known < name.len() => name = [&to[..], &name[known + 1..]].concat(),
                _ => return name[..known].to_vec(),
            }
        }
        name
    }

    /// Returns the imports of all files: from, to, and the path in the code.
    fn imports(&self) -> Vec<(Name, Name, String)> {
        let mut imports = Vec::new();
        for (module, text) in &self.files {
            let starts = ["crate::", "super::", "self::"].iter().flat_map(|start| text.match_indices(start));
            for (at, _) in starts {
                if text[..at].ends_with(|before: char| before.is_alphanumeric() || "_:$".contains(before)) {
                    continue;
                }
                for path in paths(&text[at..]) {
                    let to = self.file_of(&absolute(module, &path).unwrap_or_default());
                    if to != *module {
                        imports.push((module.clone(), to, path.join("::")));
                    }
                }
            }
        }
        imports
    }
}

/// Returns source text without comments, without the test module at its end, and without the lines that
/// only tests compile.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let mut lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let mut kept = Vec::new();
    while let Some(line) = lines.next() {
        if line.trim() == "#[cfg(test)]" {
            lines.next();
        } else {
            kept.push(line);
        }
    }
    kept.join("\n")
}

/// Returns the paths at the start of a text: one, or all of a tree such as `a::{b, c::d}`.
fn paths(text: &str) -> Vec<Name> {
    let mut found = Vec::new();
    tree(text, &[], &mut found);
    found
}

/// Reads a tree of paths that begin with `prefix`. Returns the text behind it.
fn tree<'a>(text: &'a str, prefix: &[String], found: &mut Vec<Name>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = tree(rest, prefix, found).trim_start();
            if let Some(renamed) = rest.strip_prefix("as ") {
                rest = renamed.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').trim_start();
            }
            match rest.strip_prefix(',').map(str::trim_start) {
                Some(next) if !next.starts_with('}') => rest = next,
                Some(next) => return &next[1..],
                None => return rest.strip_prefix('}').unwrap_or(rest),
            }
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let mut path = prefix.to_vec();
    path.extend((!word.is_empty()).then(|| word.to_owned()));
    match rest.strip_prefix("::") {
        Some(rest) if !word.is_empty() => tree(rest, &path, found),
        _ => {
            found.push(path);
            rest
        }
    }
}

/// Returns a path from the crate's root on; `None` if it does not say where it begins.
fn absolute(module: &[String], path: &[String]) -> Option<Name> {
    let ups = path.iter().take_while(|word| *word == "super").count();
    match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some([module, &path[1..]].concat()),
        "super" => Some([&module[..module.len().checked_sub(ups)?], &path[ups..]].concat()),
        _ => None,
    }
}

fn folder(module: &[String]) -> Option<usize> {
    ORDER.iter().position(|folder| module.first().is_some_and(|first| first == folder))
}

#[test]
fn no_folder_imports_one_above_it() {
    let sources = Sources::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let imports = sources.imports();
    let mut arrows = BTreeSet::new();
    let mut wrong = Vec::new();
    for (from, to, path) in &imports {
        let (above, below) = match (folder(from), folder(to)) {
            // What belongs to no folder is for all of them, and knows none; lib.rs hands names on.
            (None, Some(_)) if !from.is_empty() => (1, 0),
            (Some(from), Some(to)) => (from, to),
            _ => continue,
        };
        arrows.insert((above, below));
        let into_sim = to.first().is_some_and(|first| first == "sim") && from.first() != to.first();
        if above > below || into_sim {
            wrong.push(format!("{}: {path} is in {}", from.join("/"), to.join("/")));
        }
    }
    assert!(wrong.is_empty(), "imports that run back up:\n{}", wrong.join("\n"));
    // The reader has seen what everybody knows: jobs use disks, formats use storage.
    assert!(arrows.contains(&(0, 1)) && arrows.contains(&(3, 5)), "{arrows:?}");
    assert!(imports.len() > 500, "only {} imports were found", imports.len());
}

#[test]
fn a_path_is_followed_to_the_file_that_defines_its_last_name() {
    let text = |text: &str| code(text);
    let mut sources = Sources { files: BTreeMap::new(), reexports: BTreeMap::new() };
    let name = |path: &str| path.split('/').map(str::to_owned).collect::<Name>();
    sources.files.insert(Vec::new(), text("pub use disk::Disk;"));
    sources.files.insert(name("disk"), text("pub struct Disk;"));
    let uses =
        "use crate::{Disk, image::{self, node::Node as N,}};\nfn f() -> super::driver::X {}\n// crate::job";
    sources.files.insert(name("format/raw"), text(uses));
    sources.files.insert(name("format/driver"), text(""));
    sources.files.insert(name("image"), text(""));
    sources.files.insert(name("image/node"), text(""));
    sources.reexports.insert(name("Disk"), name("disk/Disk"));
    let found: BTreeSet<Name> = sources.imports().into_iter().map(|(_, to, _)| to).collect();
    let expected = ["disk", "image", "image/node", "format/driver"];
    assert_eq!(found, expected.into_iter().map(name).collect());
}
