//! Lists the page's files, so that the program holds them.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or(io::ErrorKind::NotFound)?);
    let mut files = Vec::new();
    list(&root.join("assets"), "", &mut files)?;
    list(&root.join("vendor"), "vendor/", &mut files)?;
    files.sort();
    let (mut code, mut hasher) = ("const FILES: &[(&str, &[u8])] = &[\n".to_owned(), DefaultHasher::new());
    for (name, path) in files {
        fs::read(&path)?.hash(&mut hasher);
        let _ = writeln!(code, "    ({name:?}, include_bytes!({path:?})),");
    }
    code.push_str("];\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    fs::write(out.join("files.rs"), code)?;
    println!("cargo::rustc-env=MILLRACE_WEB_FILES={:x}", hasher.finish());
    println!("cargo::rerun-if-changed=assets");
    println!("cargo::rerun-if-changed=vendor");
    Ok(())
}

fn list(folder: &Path, prefix: &str, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let (entry, path) = entry.map(|entry| (entry.file_name(), entry.path()))?;
        let name = format!("{prefix}{}", entry.to_string_lossy());
        if path.is_dir() { list(&path, &format!("{name}/"), files)? } else { files.push((name, path)) }
    }
    Ok(())
}
