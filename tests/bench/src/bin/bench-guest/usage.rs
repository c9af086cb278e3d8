//! The memory of a process that is not its guest's.

use harness::Failure;

/// The memory of a process beyond its guest's RAM of `ram` bytes, in bytes: its share of the resident
/// pages of all other mappings (`Pss` in `proc_pid_smaps(5)`: a page that N processes map counts as an
/// N-th).
pub fn beyond(process: u32, ram: u64) -> Result<u64, Failure> {
    let smaps = std::fs::read_to_string(format!("/proc/{process}/smaps"))?;
    sum(&smaps, ram).ok_or_else(|| "smaps: no mapping of the guest's RAM".into())
}

/// Returns `None` if no mapping is large enough to be the guest's RAM, or if a line cannot be parsed.
fn sum(smaps: &str, ram: u64) -> Option<u64> {
    let (mut total, mut found, mut is_ram) = (0, false, false);
    for line in smaps.lines() {
        let Some((name, value)) = line.split_once(char::is_whitespace) else { continue };
        if let Some((start, end)) = name.split_once('-')
            && let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16))
        {
            is_ram = end - start >= ram;
            found |= is_ram;
        } else if name == "Pss:" && !is_ram {
            let kib: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
            total += kib << 10;
        }
    }
    found.then_some(total)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_guests_ram_is_left_out() {
        let smaps = "55e0-55f0 r-xp 00000000 08:01 42 /bin/vmm\nSize: 4 kB\nPss:    3 kB\nVmFlags: rd\n\
                     100000-200000 rw-p 00000000 00:00 0\nPss: 900 kB\n\
                     7f00-7f10 rw-p 00000000 00:00 0 [stack]\nPss: 8 kB\nPss_Dirty: 8 kB\n";
        assert_eq!(super::sum(smaps, 1 << 20), Some(11 << 10));
        assert_eq!(super::sum(smaps, 1 << 21), None);
    }
}
