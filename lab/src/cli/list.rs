//! `lab list` and `lab figure`.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use super::{End, print};
use lab::figures;
use lab::plot;
use lab::presets::{DISK, Described, RAM};

/// The strategies, devices and workloads that an experiment may name.
pub fn text() -> String {
    let mut out = String::new();
    let mut section = |title: &str, presets: &[Described], of_disks: bool| {
        let _ = writeln!(out, "{title}");
        for preset in presets {
            let kind = if preset.shipped { "shipped" } else { "model" };
            let event = if of_disks && lab::event::runs(preset.name) { "event" } else { "" };
            let _ = writeln!(
                out,
                "  {:<18} {:<8} {:<6} {}\n{:37}{}",
                preset.name, kind, event, preset.does, "", preset.source
            );
        }
        out.push('\n');
    };
    section("Strategies for disks (\"event\": the event tier runs it)", &DISK, true);
    section("Strategies for RAM", &RAM, false);
    let _ = writeln!(out, "Devices\n  {}\n", lab::experiment::DEVICES.join(", "));
    let _ = writeln!(out, "Workloads\n  {}", workload::spec::PRESETS.join(", "));
    out
}

/// Makes a figure, and its plot if a file is given for that. Without a name, lists all figures. The status is
/// 1 if a check of the figure does not hold.
pub fn figure(name: Option<&str>, svg: Option<&Path>) -> End {
    let Some(name) = name else {
        print(&figures::list());
        return Ok(ExitCode::SUCCESS);
    };
    let made = figures::make(name)
        .ok_or_else(|| format!("unknown figure '{name}'{}", figures::suggestion(name)))??;
    print(&made.text());
    if let Some(path) = svg {
        std::fs::write(path, plot::standalone(&made.svg))
            .map_err(|error| format!("{}: cannot be written: {error}", path.display()))?;
    }
    Ok(if made.checks.iter().all(|check| check.holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
