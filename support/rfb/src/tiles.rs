//! Sets of tiles, the squares in which changes of a screen are found and sent.

use crate::screen::Size;

/// The side of a tile in pixels.
pub(crate) const TILE: u16 = 16;
/// The most rectangles of one update: their number has 16 bits on the wire, and a few are not pixels.
pub(crate) const MAX_RECTS: usize = 65_000;
/// The most lines of a rectangle, which is encoded as a whole: a multiple of [`TILE`] and of ZRLE's tiles.
const MAX_LINES: u16 = 64;

/// A rectangle in pixels.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Rect {
    pub(crate) x: u16,
    pub(crate) y: u16,
    pub(crate) width: u16,
    pub(crate) height: u16,
}

impl Rect {
    pub(crate) fn all(size: Size) -> Self {
        Rect { x: 0, y: 0, width: size.width, height: size.height }
    }

    fn right(&self) -> u32 {
        u32::from(self.x) + u32::from(self.width)
    }

    fn bottom(&self) -> u32 {
        u32::from(self.y) + u32::from(self.height)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0
    }

    /// Returns the part inside of a screen; it may be empty.
    pub(crate) fn within(&self, size: Size) -> Self {
        let side = |at: u16, len: u16, whole: u16| len.min(whole.saturating_sub(at));
        Rect {
            width: side(self.x, self.width, size.width),
            height: side(self.y, self.height, size.height),
            ..*self
        }
    }

    /// Returns the smallest rectangle that has both. Both must be within a screen.
    pub(crate) fn with(&self, other: &Rect) -> Self {
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        // Within a screen, so both ends have 16 bits.
        let width = (self.right().max(other.right()) - u32::from(x)) as u16;
        let height = (self.bottom().max(other.bottom()) - u32::from(y)) as u16;
        Rect { x, y, width, height }
    }
}

/// A set of tiles of a screen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tiles {
    size: Size,
    columns: u16,
    rows: u16,
    /// Words in a row of tiles.
    stride: usize,
    words: Vec<u64>,
}

/// Returns a word with the bits from `from` to `to`, at most 64, set.
fn bits(from: usize, to: usize) -> u64 {
    let below = |n: usize| if n >= 64 { u64::MAX } else { (1 << n) - 1 };
    below(to) & !below(from)
}

impl Tiles {
    /// The empty set of tiles of a screen.
    pub(crate) fn new(size: Size) -> Self {
        let (columns, rows) = (size.width.div_ceil(TILE), size.height.div_ceil(TILE));
        let stride = usize::from(columns).div_ceil(64);
        Tiles { size, columns, rows, stride, words: vec![0; stride * usize::from(rows)] }
    }

    /// All tiles of a screen.
    pub(crate) fn full(size: Size) -> Self {
        let mut tiles = Self::new(size);
        tiles.insert_area(Rect::all(size));
        tiles
    }

    /// The size of the screen.
    pub(crate) fn size(&self) -> Size {
        self.size
    }

    pub(crate) fn insert(&mut self, column: u16, row: u16) {
        let (column, row) = (usize::from(column), usize::from(row));
        self.words[row * self.stride + column / 64] |= 1 << (column % 64);
    }

    pub(crate) fn clear(&mut self) {
        self.words.fill(0);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Adds the tiles of another set of the same screen.
    pub(crate) fn insert_all(&mut self, other: &Tiles) {
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// Adds every tile that has a pixel of the area.
    pub(crate) fn insert_area(&mut self, area: Rect) {
        for (at, mask) in self.masks(area) {
            self.words[at] |= mask;
        }
    }

    /// The words with tiles that have a pixel of the area, each with the bits of these tiles.
    fn masks(&self, area: Rect) -> impl Iterator<Item = (usize, u64)> + use<> {
        let area = area.within(self.size);
        let (columns, rows) = match area.is_empty() {
            true => (0..0, 0..0),
            false => (
                usize::from(area.x / TILE)..area.right().div_ceil(TILE.into()) as usize,
                usize::from(area.y / TILE)..area.bottom().div_ceil(TILE.into()) as usize,
            ),
        };
        let stride = self.stride;
        rows.flat_map(move |row| {
            let columns = columns.clone();
            (columns.start / 64..columns.end.div_ceil(64)).map(move |word| {
                let start = 64 * word;
                let mask = bits(columns.start.saturating_sub(start), (columns.end - start).min(64));
                (row * stride + word, mask)
            })
        })
    }

    /// Removes the tiles that have a pixel of the area, and returns rectangles that cover them: whole tiles,
    /// each at most 64 lines high, at most [`MAX_RECTS`].
    pub(crate) fn take(&mut self, area: Rect) -> Vec<Rect> {
        let mut taken = Tiles::new(self.size);
        for (at, mask) in self.masks(area) {
            taken.words[at] = self.words[at] & mask;
            self.words[at] &= !mask;
        }
        let mut rects = taken.rects(Self::runs);
        if rects.len() > MAX_RECTS {
            // One run in each row has all tiles, and some more.
            rects = taken.rects(|tiles, row| {
                let runs = tiles.runs(row);
                runs.first().zip(runs.last()).map(|(first, last)| (first.0, last.1)).into_iter().collect()
            });
        }
        rects
    }

    /// Returns the runs of tiles in a row: first column, column behind the last one.
    fn runs(&self, row: u16) -> Vec<(u16, u16)> {
        let words = &self.words[usize::from(row) * self.stride..][..self.stride];
        let contains = |column: u16| words[usize::from(column / 64)] & 1 << (column % 64) != 0;
        let mut runs: Vec<(u16, u16)> = Vec::new();
        for column in (0..self.columns).filter(|column| contains(*column)) {
            match runs.last_mut() {
                Some((_, end)) if *end == column => *end += 1,
                _ => runs.push((column, column + 1)),
            }
        }
        runs
    }

    /// Returns rectangles over the runs of all rows. Equal runs of neighbouring rows become one rectangle.
    fn rects(&self, runs: impl Fn(&Self, u16) -> Vec<(u16, u16)>) -> Vec<Rect> {
        let mut rects: Vec<Rect> = Vec::new();
        // The rectangles that end with the row above, by their first columns.
        let mut above: Vec<usize> = Vec::new();
        for row in 0..self.rows {
            let mut here = Vec::new();
            let mut candidates = above.iter().copied().peekable();
            for (start, end) in runs(self, row) {
                let tile = Rect { x: start * TILE, y: row * TILE, width: (end - start) * TILE, height: TILE };
                let tile = tile.within(self.size);
                while candidates.next_if(|candidate| rects[*candidate].x < tile.x).is_some() {}
                let same = |candidate: &usize| {
                    let Rect { x, width, height, .. } = rects[*candidate];
                    (x, width) == (tile.x, tile.width) && height < MAX_LINES
                };
                match candidates.next_if(same) {
                    Some(candidate) => {
                        rects[candidate].height += tile.height;
                        here.push(candidate);
                    }
                    None => {
                        rects.push(tile);
                        here.push(rects.len() - 1);
                    }
                }
            }
            above = here;
        }
        rects
    }
}

#[cfg(test)]
#[path = "tiles_tests.rs"]
mod tests;
