//! The guest agent's static binary. It is built when it is first needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::output;
use crate::{Error, Result, cache, packages};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The agent's binary: from the cache, or built by cargo from the current sources.
///
/// The build uses a target directory of its own, so that it neither waits for the cargo that runs the
/// caller nor discards what that one has built.
pub fn find() -> Result<PathBuf> {
    let package = &cache::workspace().join("guest-images/agent");
    let mut sources = vec![
        cache::workspace().join("Cargo.lock"),
        cache::workspace().join("guest-images/images/src/agent_binary.rs"),
        package.join("Cargo.toml"),
    ];
    // The sources that the agent is built from. The host's side may change without a new build of the
    // agent.
    let shared = ["lib.rs", "frames.rs", "interface.rs", "pattern.rs", "wire.rs"];
    sources.extend(shared.map(|name| package.join("src").join(name)));
    sources.extend(
        packages::files(&package.join("src/bin/guest-agent"))?.into_iter().filter(|path| path.is_file()),
    );
    let read = |path: &PathBuf| fs::read(path).map_err(Error::file("read", path));
    let contents = sources.iter().map(read).collect::<Result<Vec<_>>>()?;
    let name = format!("guest-agent-{}", cache::hash(contents.iter().map(Vec::as_slice)));
    cache::entry(&name, |path| build(package, path))
}

fn build(package: &Path, path: &Path) -> Result<()> {
    let target = cache::directory()?.join("agent-build");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args([
            "build",
            "--quiet",
            "--release",
            "--no-default-features",
            "--bin",
            "guest-agent",
            "--target",
            TARGET,
        ])
        .arg("--manifest-path")
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols")
        // An outer 'cargo clippy' or a wrapper may set these; they would change the build.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    output(&mut command)?;
    let built = target.join(TARGET).join("release/guest-agent");
    fs::copy(&built, path).map_err(Error::file("copy", &built))?;
    Ok(())
}
