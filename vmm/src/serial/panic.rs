//! Detects a kernel's panic in a guest's console output.

/// The beginning of a kernel's panic message (`kernel/panic.c`), and that of an ordinary restart
/// (`kernel/reboot.c`), which a kernel that has panicked does not reach.
const PANIC: &[u8] = b"Kernel panic - not syncing";
const RESTART: &[u8] = b"reboot: Restarting system";

/// The number of bytes of a line that are remembered.
const LINE: usize = 256;

/// Recognizes a panic only in the kernel's own messages: at the start of a line, or behind the timestamp
/// that begins a message, which may follow a prompt. An old panic that a program prints does not count,
/// and neither does one that an ordinary restart follows.
#[derive(Default)]
pub(super) struct PanicWatch {
    line: Vec<u8>,
    /// True if the start of the line is not in `line` any more.
    cut: bool,
    panicked: bool,
}

impl PanicWatch {
    /// Processes the next byte of output.
    pub(super) fn push(&mut self, byte: u8) {
        if matches!(byte, b'\n' | b'\r') {
            self.line.clear();
            self.cut = false;
            return;
        }
        if self.line.len() == LINE {
            self.line.drain(..LINE / 2);
            self.cut = true;
        }
        self.line.push(byte);
        if self.says(PANIC) {
            self.panicked = true;
        } else if self.says(RESTART) {
            self.panicked = false;
        }
    }

    /// Returns true if the kernel has panicked.
    pub(super) fn panicked(&self) -> bool {
        self.panicked
    }

    /// Returns true if the last byte completes `text` in a message of the kernel.
    fn says(&self, text: &[u8]) -> bool {
        let before = self.line.strip_suffix(text);
        before.is_some_and(|before| before.is_empty() && !self.cut || ends_with_time(before))
    }
}

/// Returns true if `line` ends with the prefix of a kernel's messages: `[    1.234567] `, or, with the
/// task or processor that prints, `[    1.234567][   T12] `.
fn ends_with_time(line: &[u8]) -> bool {
    let Some(line) = line.strip_suffix(b"] ") else { return false };
    let Some(start) = line.iter().rposition(|byte| *byte == b'[') else { return false };
    let inside = &line[start + 1..];
    inside.iter().any(u8::is_ascii_digit)
        && inside.iter().all(|byte| byte.is_ascii_digit() || b" .TC".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panicked(output: &[u8]) -> bool {
        let mut watch = PanicWatch::default();
        output.iter().for_each(|byte| watch.push(*byte));
        watch.panicked()
    }

    #[test]
    fn a_kernels_own_words_are_a_panic() {
        for output in [
            &b"Kernel panic - not syncing: Attempted to kill init!\r\n"[..],
            b"[    0.712345] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n",
            b"[   12.000001][    T1] Kernel panic - not syncing: x",
            b"\nhost login: [ 1234.567890] Kernel panic - not syncing: sysrq triggered crash\r\n",
            b"[    1.0] reboot: Restarting system\r\n[    2.0] Kernel panic - not syncing: while restarting",
        ] {
            assert!(panicked(output), "{}", output.escape_ascii());
        }
    }

    #[test]
    fn what_a_program_prints_is_none() {
        for output in [
            &b"# grep -r 'Kernel panic' /var/log\r\n"[..],
            b"syslog:Nov 27 host kernel: Kernel panic - not syncing: x\r\n",
            b"[    1.234567] host kernel: Kernel panic - not syncing: x\r\n",
            b"[note] Kernel panic - not syncing: x",
            b"[    1.000000] Kernel panic is what follows",
            b"KernelKernel panic - not syncing",
            // A log of an older boot, and then this one's ordinary end.
            b"<0>[    9.876543] Kernel panic - not syncing: old\r\n[   60.000000] reboot: Restarting system\r\n",
        ] {
            assert!(!panicked(output), "{}", output.escape_ascii());
        }
        // A line without an end, whose start is forgotten.
        assert!(!panicked(&[&b"x".repeat(LINE)[..], PANIC].concat()));
        assert!(!panicked(&b"Kernel panic - not ".repeat(1000)));
    }
}
