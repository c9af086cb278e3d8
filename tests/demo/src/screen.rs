//! What a person sees: a line for each step, a progress bar, a table.

use std::io::{IsTerminal, Write};
use std::time::Instant;

use emulated_host::Invocation;
use indicatif::{InMemoryTerm, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::Phase;

/// Tells the demo inside the emulated host how wide the person's terminal is; unset where there is none.
const WIDTH: &str = "MILLRACE_DEMO_WIDTH";

/// Passes what is known of the terminal on into the emulated host, whose own output is no terminal.
pub fn pass_terminal(command: &mut Invocation) {
    if let Some(width) = width() {
        command.env.push((WIDTH.into(), width.to_string().into()));
    }
}

fn width() -> Option<u16> {
    if let Some(width) = std::env::var(WIDTH).ok().and_then(|text| text.parse().ok()) {
        return Some(width);
    }
    std::io::stdout().is_terminal().then_some(80)
}

/// Sizes for people.
pub fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// The steps so far, and the bar of the current one.
pub struct Screen {
    width: Option<u16>,
    step: String,
    since: Instant,
    bar: Option<(ProgressBar, InMemoryTerm)>,
    printed: u64,
}

impl Screen {
    /// A screen as wide as the person's terminal, or plain lines.
    pub fn new() -> Self {
        Screen { width: width(), step: String::new(), since: Instant::now(), bar: None, printed: 0 }
    }

    /// A step begins.
    pub fn begin(&mut self, step: &str) {
        self.step = step.to_owned();
        self.since = Instant::now();
        self.bar = None;
        self.printed = 0;
        if self.width.is_some() {
            self.put(&format!("  {step} ..."));
        }
    }

    /// The current step has come so far.
    pub fn progress(&mut self, offset: u64, len: u64) {
        let Some(width) = self.width else {
            // Lines for a log: one for each quarter.
            let quarter = offset * 4 / len.max(1);
            if quarter > self.printed {
                self.printed = quarter;
                println!("     {} of {}", mib(offset), mib(len));
            }
            return;
        };
        let (bar, screen) = self.bar.get_or_insert_with(|| {
            // The bar is drawn into memory and printed as one line: the emulated host's output is no terminal.
            let screen = InMemoryTerm::new(1, width);
            let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
            let bar = ProgressBar::with_draw_target(Some(len), target);
            let style =
                ProgressStyle::with_template("  3. {bar:40} {bytes} of {total_bytes}, {bytes_per_sec}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            (bar, screen)
        });
        bar.set_position(offset);
        bar.tick();
        let line = screen.contents();
        self.put(&line);
    }

    /// The current step is done.
    pub fn done(&mut self, note: &str) {
        let note = if note.is_empty() { String::new() } else { format!("  ({note})") };
        let line = format!("  {:<48}{:>6.2} s{note}", self.step, self.since.elapsed().as_secs_f64());
        if self.width.is_some() {
            self.put(&line);
        } else {
            print!("{line}");
        }
        println!();
    }

    /// Replaces the current line.
    fn put(&self, line: &str) {
        print!("\r\x1b[2K{line}");
        // A closed pipe ends the demo at the next step.
        let _ = std::io::stdout().flush();
    }
}

/// Throughput and latency of the guest's workload by phase.
pub fn table(phases: &[Phase]) {
    println!(
        "  guest              {:>10} {:>10} {:>10} {:>10} {:>10}",
        "MiB/s", "IOPS", "p50 ms", "p99 ms", "max ms"
    );
    for phase in phases {
        let latency = &phase.stat.latency;
        let ms = |us: u64| us as f64 / 1e3;
        println!(
            "  {:<18} {:>10.2} {:>10.0} {:>10.2} {:>10.2} {:>10.2}",
            format!("{} the copy", phase.name),
            phase.bytes as f64 / phase.seconds / (1 << 20) as f64,
            latency.count as f64 / phase.seconds,
            ms(latency.p50_us),
            ms(latency.p99_us),
            ms(latency.max_us),
        );
    }
}
