//! Measures the VNC server on a screen in memory, with a client of this program that reads updates and drops
//! them: updates per second, and the share of a core that the server's thread takes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

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
const RAW: i32 = 0;
const ZRLE: i32 = 16;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench-screen: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    println!("{:<34} {:>10} {:>12} {:>14}", "row", "updates/s", "MiB/update", "share of core");
    let time = Duration::from_secs(arguments.seconds);
    row("raw, every pixel changes", RAW, time, |screen, _| screen.invert())?;
    row("ZRLE, a console of text scrolls", ZRLE, time, Synthetic::draw_text)?;
    row("ZRLE, every pixel changes", ZRLE, time, |screen, n| {
        if n == 0 {
            screen.draw_pattern();
        }
        screen.invert();
    })?;
    let server = ScreenServer::start(&Synthetic::new(SIZE.0, SIZE.1), Config::default())?;
    let before = server.processor_time()?;
    std::thread::sleep(Duration::from_secs(arguments.idle));
    let used = server.processor_time()? - before;
    println!("no client: {used:?} of processor time in {} s", arguments.idle);
    Ok(())
}

/// Asks for the whole screen again and again, each time after a change.
fn row(name: &str, encoding: i32, time: Duration, change: impl Fn(&Synthetic, u32)) -> Result<(), Failure> {
    let screen = Synthetic::new(SIZE.0, SIZE.1);
    let server = ScreenServer::start(&screen, Config::default())?;
    let mut client = Client::connect(&server, encoding)?;
    client.update(false)?;
    let (began, before) = (Instant::now(), server.processor_time()?);
    let (mut updates, mut bytes) = (0, 0);
    while began.elapsed() < time {
        change(&screen, updates);
        bytes += client.update(true)?;
        updates += 1;
    }
    let (seconds, used) = (began.elapsed().as_secs_f64(), server.processor_time()? - before);
    println!(
        "{name:<34} {:>10.1} {:>12.3} {:>13.1}%",
        f64::from(updates) / seconds,
        bytes as f64 / f64::from(updates) / f64::from(1 << 20),
        100.0 * used.as_secs_f64() / seconds
    );
    Ok(())
}

struct Client(TcpStream);

impl Client {
    /// Logs in without a password, by RFB 3.8, and chooses an encoding.
    fn connect(server: &ScreenServer, encoding: i32) -> Result<Self, Failure> {
        let mut client = Client(TcpStream::connect(server.address)?);
        client.0.set_nodelay(true)?;
        client.bytes(12)?;
        client.0.write_all(b"RFB 003.008\n")?;
        client.bytes(2)?;
        client.0.write_all(&[1])?;
        client.bytes(4)?;
        client.0.write_all(&[1])?;
        let init = client.bytes(24)?;
        client.bytes(u32::from_be_bytes([init[20], init[21], init[22], init[23]]) as usize)?;
        client.0.write_all(&[2, 0, 0, 1])?;
        client.0.write_all(&encoding.to_be_bytes())?;
        Ok(client)
    }

    fn bytes(&mut self, len: usize) -> Result<Vec<u8>, Failure> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Requests the screen, or its changes, and receives an update. Returns its length in bytes.
    fn update(&mut self, incremental: bool) -> Result<usize, Failure> {
        let [w, h] = [SIZE.0, SIZE.1].map(u16::to_be_bytes);
        self.0.write_all(&[3, incremental.into(), 0, 0, 0, 0, w[0], w[1], h[0], h[1]])?;
        let head = self.bytes(4)?;
        let mut len = head.len();
        for _ in 0..u16::from_be_bytes([head[2], head[3]]) {
            let rect = self.bytes(12)?;
            let side = |at: usize| usize::from(u16::from_be_bytes([rect[at], rect[at + 1]]));
            let data = match i32::from_be_bytes([rect[8], rect[9], rect[10], rect[11]]) {
                RAW => 4 * side(4) * side(6),
                _ => {
                    let len = self.bytes(4)?;
                    u32::from_be_bytes([len[0], len[1], len[2], len[3]]) as usize
                }
            };
            self.bytes(data)?;
            len += rect.len() + data;
        }
        Ok(len)
    }
}
