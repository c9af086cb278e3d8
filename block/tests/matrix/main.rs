//! All options of `qemu-img create`, alone and over chains of other formats, checked with QEMU's tools,
//! and with the crate imago if it supports all features of the chain. By default every pair of values,
//! with `--full` the whole product, with `--sample=N` about one in N of that, chosen by the seed.
//!
//! ```text
//! cargo test -p block --test matrix -- --full
//! MILLRACE_SEED=3 cargo test -p block --test matrix -- --sample=20
//! MILLRACE_SEED=7 cargo test -p block --test matrix -- 'qcow2 compat=1.1,cluster_size=64k'
//! ```
//!
//! Each image is tested in a process of its own: images are locked, and a process that forks for another
//! image would share its locks.

mod oracle;
mod pairs;
mod rows;
#[allow(dead_code, reason = "shared with the tests of real files, which use more of it")]
#[path = "../real/support.rs"]
mod support;
mod trial;

use std::process::Command;

use libtest_mimic::{Arguments, Failed, Trial};

/// Environment variable that names the image that a process tests.
const ONE: &str = "MILLRACE_MATRIX_ROW";

fn seed() -> u64 {
    std::env::var("MILLRACE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn in_a_process(full: bool, name: &str) -> Result<(), Failed> {
    let program = std::env::current_exe()?;
    let flag = if full { &["--full"][..] } else { &[] };
    let output = Command::new(program).args(flag).env(ONE, name).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let seed = seed();
    Err(format!("MILLRACE_SEED={seed}: {}\n{}", output.status, String::from_utf8_lossy(&said)).into())
}

fn main() {
    let ours = |argument: &String| argument == "--full" || argument.starts_with("--sample=");
    let (mine, others): (Vec<_>, Vec<_>) = std::env::args().partition(ours);
    let full = !mine.is_empty();
    let mut layouts = rows::all(full);
    if let Ok(name) = std::env::var(ONE) {
        let layout =
            layouts.iter().find(|layout| layout.name() == name).expect("the parent has the same rows");
        return trial::run(layout, seed());
    }
    if let Some(n) = mine.iter().find_map(|argument| argument.strip_prefix("--sample=")) {
        let n: u64 = n.parse().expect("--sample=N takes a number above 0");
        layouts.retain(|layout| trial::number(&layout.name(), seed()).is_multiple_of(n));
    }
    let arguments = Arguments::from_iter(others);
    println!("{} images, MILLRACE_SEED={}", layouts.len(), seed());
    let trials = layouts.iter().map(|layout| {
        let name = layout.name();
        Trial::test(name.clone(), move || in_a_process(full, &name))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
