//! Measures the VNC server on a screen in memory, with a client of this program that reads updates and drops
//! them: updates per second, and the share of a core that the server's thread takes.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use bench::vnc::{RAW, VncClient, ZRLE};
use clap::Parser;
use harness::Failure;
use harness::screen::{ScreenServer, Synthetic};
use rfb::Config;

/// Measures the VNC server on a screen in memory: updates per second and the processor time of its thread.
#[derive(Parser)]
struct Arguments {
    /// Seconds of each row.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Seconds for which the server is watched without a client.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    idle: u64,
}

/// The size of the screen in pixels.
const SIZE: (u16, u16) = (1024, 768);
/// The least number of updates a second.
const LEAST: f64 = 20.0;
/// The greatest share of a core that the server's thread may take for updates of plain pixels.
const MOST: f64 = 0.3;
/// The greatest share of a core that it may take while nobody is connected. Reading the clock takes some.
const IDLE: f64 = 0.0001;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("bench-screen: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool, Failure> {
    println!("{:<34}{:>12}{:>12}{:>15}", "1024x768", "updates/s", "MiB/update", "share of core");
    let time = Duration::from_secs(arguments.seconds);
    let raw = row("raw, every pixel changes", RAW, time, Some(MOST), |screen, _| screen.invert())?;
    let text = row("ZRLE, a console of text scrolls", ZRLE, time, None, Synthetic::draw_text)?;
    let pattern = row("ZRLE, every pixel changes", ZRLE, time, None, |screen, n| {
        if n == 0 {
            screen.draw_pattern();
        }
        screen.invert();
    })?;
    let server = ScreenServer::start(&Synthetic::new(SIZE.0, SIZE.1), Config::default())?;
    let before = server.processor_time()?;
    std::thread::sleep(Duration::from_secs(arguments.idle));
    let used = server.processor_time()? - before;
    let idle = used.as_secs_f64() <= IDLE * arguments.idle as f64;
    let mark = if idle { "ok" } else { "MISSED" };
    println!("no client: {used:?} of processor time in {} s  {mark}  at most {IDLE} of it", arguments.idle);
    Ok(raw && text && pattern && idle)
}

/// Asks for the whole screen again and again, each time after a change. Returns true if there were enough
/// updates, and the server's thread took at most the share `most` of a core for them.
fn row(
    name: &str,
    encoding: i32,
    time: Duration,
    most: Option<f64>,
    change: impl Fn(&Synthetic, u32),
) -> Result<bool, Failure> {
    let screen = Synthetic::new(SIZE.0, SIZE.1);
    let server = ScreenServer::start(&screen, Config::default())?;
    let mut client = VncClient::connect(server.address, encoding)?;
    client.update(false)?;
    let (began, before) = (Instant::now(), server.processor_time()?);
    let (mut updates, mut bytes) = (0, 0);
    while began.elapsed() < time {
        change(&screen, updates);
        bytes += client.update(true)?;
        updates += 1;
    }
    let (seconds, used) = (began.elapsed().as_secs_f64(), server.processor_time()? - before);
    let (rate, share) = (f64::from(updates) / seconds, used.as_secs_f64() / seconds);
    let met = rate >= LEAST && most.is_none_or(|most| share <= most);
    let limit = most.map(|most| format!(", at most {:.0}% of a core", 100.0 * most)).unwrap_or_default();
    println!(
        "{name:<34}{rate:>12.1}{:>12.3}{:>14.1}%  {:<8}at least {LEAST}{limit}",
        bytes as f64 / f64::from(updates) / f64::from(1 << 20),
        100.0 * share,
        if met { "ok" } else { "MISSED" },
    );
    Ok(met)
}
