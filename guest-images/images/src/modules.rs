//! Kernel modules in the order in which they must be inserted.
//!
//! `modules.dep` is made by `depmod` when a kernel is installed, but this kernel is only unpacked. Each
//! module itself names the modules that it needs: its `.modinfo` section holds `depends=a,b` among
//! zero-terminated `key=value` strings (`include/linux/moduleinfo.h` and `scripts/mod/modpost.c` of
//! Linux).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::compression::Compression;
use crate::{Error, Result, packages};

/// A module, ready to insert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name, with `_` for every `-`.
    pub name: String,
    /// The object file's bytes.
    pub object: Vec<u8>,
}

/// The modules `names` and all their dependencies, each after its own dependencies. Modules that are
/// built into the kernel are left out.
///
/// `directory` is a kernel's modules directory. Compressed modules are decompressed.
pub fn in_order(directory: &Path, names: &[&str]) -> Result<Vec<Module>> {
    let mut objects = BTreeMap::new();
    index(&directory.join("kernel"), &mut objects)?;
    let builtin = directory.join("modules.builtin");
    let builtin = fs::read_to_string(&builtin).map_err(Error::file("read", &builtin))?;
    let builtin = builtin.lines().map(|path| module_name(Path::new(path))).collect();
    let mut order = Order { directory, objects, builtin, done: Vec::new() };
    for name in names {
        order.add(&name.replace('-', "_"))?;
    }
    Ok(order.done)
}

struct Order<'a> {
    directory: &'a Path,
    objects: BTreeMap<String, PathBuf>,
    builtin: Vec<String>,
    done: Vec<Module>,
}

impl Order<'_> {
    fn add(&mut self, name: &str) -> Result<()> {
        if self.done.iter().any(|module| module.name == name)
            || self.builtin.iter().any(|builtin| builtin == name)
        {
            return Ok(());
        }
        // Removed, so that a cycle (which a real kernel does not have) ends in an error.
        let path = self.objects.remove(name);
        let path = path.ok_or_else(|| Error::Invalid {
            path: self.directory.to_owned(),
            text: format!("has no kernel module {name}"),
        })?;
        let mut object = fs::read(&path).map_err(Error::file("read", &path))?;
        if let Some(compression) = Compression::of(&object) {
            object = compression.decompress(&object)?;
        }
        for dependency in depends(&object) {
            self.add(&dependency.replace('-', "_"))?;
        }
        self.done.push(Module { name: name.to_owned(), object });
        Ok(())
    }
}

/// Every module file under `directory`, by name.
fn index(directory: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for path in packages::files(directory)? {
        if path.is_dir() {
            index(&path, found)?;
        } else if path.to_string_lossy().contains(".ko") {
            found.insert(module_name(&path), path);
        }
    }
    Ok(())
}

fn module_name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    file.split(".ko").next().unwrap_or_default().replace('-', "_")
}

fn depends(object: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = object.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = &object[start + KEY.len()..];
    let value = value.split(|&byte| byte == 0).next().unwrap_or_default();
    let names = value.split(|&byte| byte == b',').filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

#[cfg(test)]
#[path = "modules_tests.rs"]
mod tests;
