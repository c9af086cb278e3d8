//! `cargo lab`: runs experiments that compare strategies of live migration.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use lab::figures;
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
    /// Make a figure of a publication, and check what it shows.
    Figure {
        /// Its name; without it, all names are listed.
        name: Option<String>,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::List => list(),
        Command::Figure { name: None } => print!("{}", figures::list()),
        Command::Figure { name: Some(name) } => match figures::make(&name) {
            Some(Ok(figure)) => {
                print!("{}", figure.text());
                if !figure.checks.iter().all(|check| check.holds) {
                    return ExitCode::FAILURE;
                }
            }
            Some(Err(error)) => {
                eprintln!("{error}");
                return ExitCode::from(2);
            }
            None => {
                eprintln!("unknown figure '{name}'{}", figures::suggestion(&name));
                return ExitCode::from(2);
            }
        },
    }
    ExitCode::SUCCESS
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
