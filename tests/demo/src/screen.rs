//! The output for a user: a line for each step, a progress bar, a table.

use std::io::{IsTerminal, Write};
use std::time::Instant;

use emulated_host::Invocation;
use indicatif::{InMemoryTerm, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::Phase;

/// Gives the demo inside the emulated host the width of the user's terminal; unset if there is none.
const WIDTH: &str = "MILLRACE_DEMO_WIDTH";

/// Passes the terminal's width on into the emulated host, whose own output is not a terminal.
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

/// A size for users.
pub fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// The steps so far, and the progress bar of the current one.
pub struct Screen {
    width: Option<u16>,
    step: String,
    since: Instant,
    bar: Option<(ProgressBar, InMemoryTerm)>,
    printed: u64,
}

impl Screen {
    /// A screen as wide as the user's terminal, or plain lines if there is none.
    pub fn new() -> Self {
        Screen { width: width(), step: String::new(), since: Instant::now(), bar: None, printed: 0 }
    }

    /// Begins a step.
    pub fn begin(&mut self, step: &str) {
        self.step = step.to_owned();
        self.since = Instant::now();
        self.bar = None;
        self.printed = 0;
        if self.width.is_some() {
            self.put(&format!("  {step} ..."));
        }
    }

    /// Shows the progress of the current step.
    pub fn progress(&mut self, offset: u64, len: u64) {
        let Some(width) = self.width else {
            // Without a terminal, prints one line for each quarter.
            let quarter = offset * 4 / len.max(1);
            if quarter > self.printed {
                self.printed = quarter;
                println!("     {} of {}", mib(offset), mib(len));
            }
            return;
        };
        let (bar, screen) = self.bar.get_or_insert_with(|| {
            // The bar is drawn into memory and printed as one line, because the emulated host's output
            // is not a terminal.
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

    /// Ends the current step.
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
        // If the pipe is closed, the demo ends at the next step.
        let _ = std::io::stdout().flush();
    }
}

/// Prints the throughput and latency of the guest's workload in each phase.
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
