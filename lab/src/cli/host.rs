//! Facts about the host, for `run.json`.

/// Returns the host's processor, number of CPUs, kernel and clock source, and the share of CPU time that
/// other machines of the same host took since `before`.
pub fn facts(before: Option<(u64, u64)>) -> Vec<(String, String)> {
    let read = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let cpu = || {
        let text = read("/proc/cpuinfo")?;
        Some(text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "))?.1.to_owned())
    };
    let stolen = || {
        let ((steal, all), (then, all_then)) = (steal()?, before?);
        let passed = all.checked_sub(all_then).filter(|ticks| *ticks > 0)?;
        Some(format!("{:.1} %", steal.saturating_sub(then) as f64 / passed as f64 * 100.0))
    };
    let facts = [
        ("cpu", cpu()),
        ("cpus", std::thread::available_parallelism().ok().map(|count| count.to_string())),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("clocksource", read("/sys/devices/system/clocksource/clocksource0/current_clocksource")),
        ("steal", stolen()),
    ];
    facts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

/// Returns the most memory that this process has had resident, in MiB: `VmHWM` of proc_pid_status(5).
pub fn most_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next())?;
    kib.parse::<u64>().ok().map(|kib| kib / 1024)
}

/// Returns the ticks that other machines took, and all ticks: the eighth number of the first line of
/// /proc/stat, and the sum of the first eight (proc_stat(5)).
pub fn steal() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let words = text.lines().next()?.split_whitespace().skip(1).take(8);
    let numbers: Vec<u64> = words.map(|word| word.parse().unwrap_or(0)).collect();
    Some((*numbers.get(7)?, numbers.iter().sum()))
}
