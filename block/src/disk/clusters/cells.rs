//! Cells of a map: one state for each, made of the states of the ranges in it.

/// The state of a range of a disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum State {
    /// No image of the chain has anything there; it reads as zeros.
    Nowhere,
    /// Comes from the backing file at this depth, which is at least 1; zeros of a backing file too.
    Absent(usize),
    /// Zeros, in the leaf.
    Zero,
    /// Data, in the leaf.
    Data,
    /// Data in the leaf, in a cluster that a guest or an export has written since the last switch.
    Written,
    /// Absent, and a job is copying it into the leaf.
    Populating,
}

/// The largest share or depth that a byte holds.
const MOST: u64 = 31;

impl State {
    /// The number in the low three bits of a byte.
    fn number(self) -> u8 {
        match self {
            State::Nowhere => 0,
            State::Absent(_) => 1,
            State::Zero => 2,
            State::Data => 3,
            State::Populating => 4,
            State::Written => 5,
        }
    }

    pub(super) fn depth(self) -> usize {
        if let State::Absent(depth) = self { depth } else { 0 }
    }

    fn is_in_leaf(self) -> bool {
        matches!(self, State::Zero | State::Data | State::Written)
    }

    /// Returns the byte of a cell. Its low three bits are the state: 0 nowhere, 1 absent, 2 zero, 3 data, 4
    /// populating, 5 written. The high five bits are the depth for an absent cell (31: that or more), and for
    /// the others the share of the cell that is in the leaf, in 31sts: 31 only for all of it, 0 only for
    /// nothing.
    pub fn encode(self, in_leaf: u64, len: u64) -> u8 {
        let high = match self {
            State::Absent(depth) => (depth as u64).min(MOST),
            _ if in_leaf == 0 => 0,
            _ => ((u128::from(in_leaf) * u128::from(MOST) / u128::from(len.max(1))) as u64).max(1),
        };
        self.number() | (high as u8) << 3
    }
}

/// The cells of an answer, encoded as runs.
pub(super) struct Cells {
    cell_size: u64,
    /// The disk's size in bytes.
    size: u64,
    runs: Vec<u8>,
    /// The last run: its first cell, its end and its byte. It is not encoded yet.
    last: Option<(u64, u64, u8)>,
    /// The end of the last run that is encoded.
    encoded: u64,
    /// The cell that is being put together: its strongest state and its bytes in the leaf.
    part: Option<(State, u64)>,
}

impl Cells {
    /// For an answer that begins with cell `first`.
    pub(super) fn new(first: u64, cell_size: u64, size: u64) -> Self {
        Cells { cell_size, size, runs: Vec::new(), last: None, encoded: first, part: None }
    }

    pub(super) fn cell_size(&self) -> u64 {
        self.cell_size
    }

    /// The disk's size in bytes, as it was when the answer was begun.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The number of bytes so far.
    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    /// Adds the state of a range. Ranges come in order, and each cell is added from its start to its end.
    pub(super) fn add(&mut self, mut at: u64, mut len: u64, state: State) {
        while len > 0 {
            let cell = at / self.cell_size;
            let start = cell * self.cell_size;
            let cell_len = self.cell_size.min(self.size - start);
            if self.part.is_none() && at == start && len >= cell_len {
                // The last cell of the disk may be short.
                let whole = if cell_len < self.cell_size { 1 } else { (len / self.cell_size).max(1) };
                let share = if state.is_in_leaf() { cell_len } else { 0 };
                self.push(cell, whole, state.encode(share, cell_len));
                let done = (whole * self.cell_size).min(len);
                (at, len) = (at + done, len - done);
                continue;
            }
            let done = len.min(start + cell_len - at);
            let (strongest, share) = self.part.unwrap_or((state, 0));
            let strongest = match (strongest, state) {
                // The nearest backing file that has something.
                (State::Absent(a), State::Absent(b)) => State::Absent(a.min(b)),
                (a, b) => a.max(b),
            };
            let share = share + if state.is_in_leaf() { done } else { 0 };
            self.part = Some((strongest, share));
            (at, len) = (at + done, len - done);
            if at == start + cell_len {
                self.part = None;
                self.push(cell, 1, strongest.encode(share, cell_len));
            }
        }
    }

    fn push(&mut self, cell: u64, count: u64, byte: u8) {
        match &mut self.last {
            Some((_, end, same)) if *end == cell && *same == byte => *end += count,
            _ => {
                self.encode_last();
                self.last = Some((cell, cell + count, byte));
            }
        }
    }

    fn encode_last(&mut self) {
        if let Some((first, end, byte)) = self.last.take() {
            leb128(&mut self.runs, first - self.encoded);
            leb128(&mut self.runs, end - first);
            self.runs.push(byte);
            self.encoded = end;
        }
    }

    pub(super) fn into_runs(mut self) -> Vec<u8> {
        self.encode_last();
        self.runs
    }
}

/// Appends a number in groups of seven bits, the lowest first; all but the last have the highest bit set.
fn leb128(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}
