//! `cargo lab`: runs experiments that compare strategies of live migration.

use clap::{Parser, Subcommand};

use lab::presets::{DISK, Described, RAM};

/// Compares strategies of live migration, in a model.
#[derive(Parser)]
#[command(name = "lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List strategies, devices and workloads.
    List,
}

fn main() {
    match Arguments::parse().command {
        Command::List => list(),
    }
}

fn list() {
    let section = |title: &str, presets: &[Described]| {
        println!("{title}");
        for preset in presets {
            let kind = if preset.shipped { "shipped" } else { "model" };
            println!("  {:<18} {:<8} {}\n{:30}{}", preset.name, kind, preset.does, "", preset.source);
        }
        println!();
    };
    section("Strategies for disks", &DISK);
    section("Strategies for RAM", &RAM);
    println!("Devices\n  {}\n", lab::experiment::DEVICES.join(", "));
    println!("Workloads\n  {}", workload::spec::PRESETS.join(", "));
}
