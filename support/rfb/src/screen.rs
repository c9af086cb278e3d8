//! The two ends of the program that a server joins: the [`Screen`] that it shows, and the [`Input`] that gets
//! the keys and pointers of its clients.

/// A size in pixels.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Size {
    /// The number of pixels in a line.
    pub width: u16,
    /// The number of lines.
    pub height: u16,
}

/// The largest width and height of a [`Screen`] in pixels.
pub const MAX_SIDE: u16 = 8192;

/// A set of lines of a screen, those that may have changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lines {
    words: Vec<u64>,
    height: u16,
}

impl Lines {
    /// An empty set of lines of a screen with `height` lines.
    pub fn new(height: u16) -> Self {
        Lines { words: vec![0; usize::from(height).div_ceil(64)], height }
    }

    /// The number of lines of the screen.
    pub fn height(&self) -> u16 {
        self.height
    }

    /// Adds a line. A line that the screen does not have is ignored.
    pub fn insert(&mut self, line: u16) {
        if line < self.height {
            self.words[usize::from(line / 64)] |= 1 << (line % 64);
        }
    }

    /// Adds every line of the screen.
    pub fn insert_all(&mut self) {
        (0..self.height).for_each(|line| self.insert(line));
    }

    /// Adds the lines whose bits are set: bit 0 of the first word is line 0. This is the form in which KVM's
    /// dirty log has them if a line is one page. Bits beyond the last line are ignored.
    pub fn insert_bits(&mut self, bits: &[u64]) {
        for (word, more) in self.words.iter_mut().zip(bits) {
            *word |= more;
        }
        if let (Some(last), rest @ 1..) = (self.words.last_mut(), self.height % 64) {
            *last &= (1 << rest) - 1;
        }
    }

    /// Removes every line.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Returns true if the set has no line.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Returns true if the set has that line.
    pub fn contains(&self, line: u16) -> bool {
        line < self.height && self.words[usize::from(line / 64)] & 1 << (line % 64) != 0
    }

    /// The lines of the set, from the top.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        (0..self.height).filter(|line| self.contains(*line))
    }
}

/// The screen that a server shows. Its methods are called on the server's thread and must not block.
///
/// None of them is called while no client waits for a change. While one does, the server calls
/// [`Screen::size`] and [`Screen::take_dirty_lines`] up to 30 times a second, and then
/// [`Screen::read_line`] for each line of the result. A pixel may change at any time, also between two reads
/// of it: the change is then reported by the next [`Screen::take_dirty_lines`].
pub trait Screen: 'static {
    /// Returns the size now, each side from 1 to [`MAX_SIDE`]. A size outside of that is cut.
    fn size(&self) -> Size;

    /// Adds to `lines` each line that may have changed since the last call; everything at the first call.
    /// `lines` is empty and has the height that [`Screen::size`] has just returned. Too many lines cost time,
    /// a missing one is not shown.
    fn take_dirty_lines(&self, lines: &mut Lines);

    /// Copies the pixels of a line from its left edge on. `pixels` has one element for each pixel of the
    /// current width: `0x00RRGGBB`. The highest byte is ignored.
    fn read_line(&self, line: u16, pixels: &mut [u32]);
}

/// The state of a pointer, in pixels of the screen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pointer {
    /// The column, less than the screen's width.
    pub x: u16,
    /// The line, less than the screen's height.
    pub y: u16,
    /// The size of the screen to which `x` and `y` belong.
    pub size: Size,
    /// True while the left button is pressed.
    pub left: bool,
    /// True while the middle button is pressed.
    pub middle: bool,
    /// True while the right button is pressed.
    pub right: bool,
    /// Steps of the wheel since the last event: 1 is up (away from the user), -1 is down.
    pub wheel: i8,
    /// Steps of the horizontal wheel since the last event: 1 is to the right, -1 is to the left.
    pub horizontal_wheel: i8,
}

/// The lamps of the lock keys of a keyboard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lamps {
    /// Scroll Lock.
    pub scroll_lock: bool,
    /// Num Lock.
    pub num_lock: bool,
    /// Caps Lock.
    pub caps_lock: bool,
}

/// The receiver of what clients type and point at. Its methods are called on the server's thread and must not
/// block.
pub trait Input: 'static {
    /// Presses (`down`) or releases a key. `code` is one of Linux's key codes (`KEY_A` and the others of
    /// `linux/input-event-codes.h`). A key may be pressed again without a release between, as a repetition.
    /// Every pressed key of a client is released when that client goes.
    fn key(&self, code: u16, down: bool);

    /// Returns the lamps of the guest's keyboard, if they are known. They decide what key makes the letter
    /// that a client typed, and clients are sent them, to keep their own in step. If they are not known, the
    /// server counts the presses of Caps Lock. Called as often as [`Screen::size`], and at each key.
    fn lamps(&self) -> Option<Lamps> {
        None
    }

    /// Moves the pointer, and presses and releases its buttons.
    fn pointer(&self, pointer: Pointer);
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
