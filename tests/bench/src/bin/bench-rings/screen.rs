//! The price of a VNC client for a guest's reads beside a stream: the same disk, stream and screen in turn
//! with a client and without one.

use std::net::Shutdown;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bench::vnc::{VncClient, ZRLE};
use bench::{Latencies, Spread, Vmm};
use harness::Failure;
use harness::screen::{ScreenServer, Synthetic};
use rfb::Config;

use crate::device;
use crate::driver::{Driver, Load};
use crate::rows::{Bench, Image};

/// Changes of a guest's screen of 1024x768.
struct Row {
    name: &'static str,
    /// The number of changes a second.
    changes: u32,
    /// A change; the number counts them.
    change: fn(&Synthetic, u32),
    /// The target: p99 with a client, as a multiple of p99 without one.
    most: Option<f64>,
}

const ROWS: [Row; 2] = [
    Row { name: "a cursor blinks", changes: 5, change: |screen, _| screen.blink(), most: Some(1.05) },
    Row { name: "a console of text scrolls", changes: 10, change: Synthetic::draw_text, most: None },
];

/// The leaf, and the guest's reads of 4 KiB, one at a time.
const OPTIONS: &str = "cluster_size=64k,extended_l2=on";
const LEAF: Image = Image::Leaf { format: "qcow2", qemu: OPTIONS, ours: OPTIONS };
const READS: Load = Load { write: false, len: 4 << 10, sequential: false, depth: 1, seed: 1 };

/// Measures all rows and prints them. Returns true if they meet their targets.
pub fn measure(bench: &Bench) -> Result<bool, Failure> {
    let below = bench.prepare(LEAF)?;
    println!(
        "\n{:<28}{:>26}{:>26}{:>24}{:>12}",
        "reads beside a stream", "p99 us with a client", "without one", "ratio", "updates/s"
    );
    let mut good = true;
    for row in &ROWS {
        let (mut with, mut without, mut updates) = (Vec::new(), Vec::new(), Vec::new());
        for seed in 0..u64::from(bench.runs) {
            // Neither is always the first of a pair.
            for has_client in [seed % 2 == 0, seed % 2 != 0] {
                let (latencies, count) = round(bench, &below, row, has_client, seed + 1)?;
                let p99 = latencies.percentile(99.0);
                if has_client {
                    with.push(p99);
                    updates.push(f64::from(count) / bench.time.as_secs_f64());
                } else {
                    without.push(p99);
                }
            }
        }
        let (Some(ratio), Some(a), Some(b), Some(updates)) =
            (Spread::ratio(&with, &without), Spread::of(with), Spread::of(without), Spread::of(updates))
        else {
            continue;
        };
        let met = row.most.is_none_or(|most| ratio.median <= most);
        good &= met;
        let mark = if met { "ok" } else { "MISSED" };
        let judged = row.most.map(|most| format!("  {mark:<8}at most {most}")).unwrap_or_default();
        println!("{:<28}{a:>26}{b:>26}{ratio:>24}{:>12.1}{judged}", row.name, updates.median);
    }
    std::fs::remove_file(below)?;
    Ok(good)
}

/// Measures reads while the disk is streamed and the screen changes. Returns their latencies, and the number
/// of updates that the client got.
fn round(
    bench: &Bench,
    below: &std::path::Path,
    row: &Row,
    has_client: bool,
    seed: u64,
) -> Result<(Latencies, u32), Failure> {
    let disk = bench.disk(LEAF, below, Vmm::Ours)?;
    let mut driver = Driver::new()?;
    let running = device::ours(&disk, &driver)?;
    let screen = Synthetic::new(1024, 768);
    screen.draw_text(0);
    let server = ScreenServer::start(&screen, Config::default())?;
    let client = has_client.then(|| Client::start(&server)).transpose()?;
    let drawing = Drawing::start(screen, row);
    running.start_stream()?;
    let latencies = driver.work(Load { seed, ..READS }, bench.backing, bench.time)?;
    if !running.is_streaming()? {
        return Err("the stream ended before its round: give more --backing or fewer --seconds".into());
    }
    drawing.end()?;
    let updates = client.map(Client::end).transpose()?.unwrap_or_default();
    drop(running);
    std::fs::remove_file(&disk.leaf.0)?;
    Ok((latencies, updates))
}

/// A thread that changes a screen.
struct Drawing {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Drawing {
    fn start(screen: Synthetic, row: &Row) -> Self {
        let (stop, stopped) = channel();
        let (change, pause) = (row.change, Duration::from_secs(1) / row.changes);
        let thread = std::thread::spawn(move || {
            for n in 0.. {
                if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
                change(&screen, n);
            }
        });
        Drawing { stop, thread }
    }

    fn end(self) -> Result<(), Failure> {
        drop(self.stop);
        self.thread.join().map_err(|_| "the screen's thread panicked".into())
    }
}

/// A client that follows the screen on a thread of its own.
struct Client {
    connection: std::net::TcpStream,
    thread: JoinHandle<u32>,
}

impl Client {
    fn start(server: &ScreenServer) -> Result<Self, Failure> {
        let mut client = VncClient::connect(server.address, ZRLE)?;
        client.update(false)?;
        let connection = client.connection()?;
        let thread = std::thread::spawn(move || {
            let mut updates = 0;
            while client.update(true).is_ok() {
                updates += 1;
            }
            updates
        });
        Ok(Client { connection, thread })
    }

    /// Hangs up. Returns the number of updates that came.
    fn end(self) -> Result<u32, Failure> {
        self.connection.shutdown(Shutdown::Both)?;
        let updates = self.thread.join().map_err(|_| "the client panicked")?;
        if updates == 0 { Err("the client got no update".into()) } else { Ok(updates) }
    }
}
