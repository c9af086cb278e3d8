//! The processor time of runs. It is printed, and in no table: a table must be the same everywhere.

use rustix::time::{ClockId, clock_gettime};

/// The processor time of this thread so far, in seconds.
pub(super) fn now() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The processor time of one run, or of several together. A run of the fluid tier has none.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Cost {
    /// Seconds before the migration, and the guest's requests in them.
    pub idle_s: f64,
    /// See `idle_s`.
    pub idle_requests: u64,
    /// Seconds of the migration.
    pub total_s: f64,
    /// The guest's requests in them.
    pub requests: u64,
    /// Bytes copied.
    pub copied: u64,
    /// Seconds of the check of the whole disk at the end, and its bytes.
    pub check_s: f64,
    /// See `check_s`.
    pub checked: u64,
}

impl Cost {
    /// Adds the cost of another run.
    pub fn add(&mut self, other: &Cost) {
        self.idle_s += other.idle_s;
        self.idle_requests += other.idle_requests;
        self.total_s += other.total_s;
        self.requests += other.requests;
        self.copied += other.copied;
        self.check_s += other.check_s;
        self.checked += other.checked;
    }

    /// Microseconds for each request of the guest, as measured before the migration.
    pub fn request_us(&self) -> f64 {
        self.idle_s * 1e6 / self.idle_requests.max(1) as f64
    }

    /// Microseconds for each MiB copied: what a migration takes beside the guest's requests.
    pub fn mib_us(&self) -> f64 {
        let copying = self.total_s * 1e6 - self.request_us() * self.requests as f64;
        copying.max(0.0) / (self.copied as f64 / 1_048_576.0).max(1e-9)
    }

    /// The cost as text for people, without the end of a line; empty if nothing was measured.
    pub fn text(&self) -> String {
        if self.idle_requests == 0 {
            return String::new();
        }
        format!(
            "processor time: {:.1} s; {:.1} us a request of the guest, {:.1} us a MiB copied, {:.1} us a MiB checked",
            self.idle_s + self.total_s + self.check_s,
            self.request_us(),
            self.mib_us(),
            self.check_s * 1e6 / (self.checked as f64 / 1_048_576.0).max(1e-9)
        )
    }
}
