//! A copy of the screen, by which changes are found.

use crate::screen::{Lines, MAX_SIDE, Screen, Size};
use crate::tiles::{Rect, TILE, Tiles};

/// The screen as it was at the last refresh. Everything that is sent comes from here, so that a tile which
/// changes again is found to differ from what clients have.
#[derive(Default)]
pub(crate) struct Frame {
    size: Size,
    pixels: Vec<u32>,
    /// The line that is being compared.
    line: Vec<u32>,
    dirty: Lines,
    /// The tiles that the last refresh found changed.
    changed: Tiles,
}

impl Frame {
    pub(crate) fn size(&self) -> Size {
        self.size
    }

    /// The tiles that the last [`Frame::refresh`] found changed.
    pub(crate) fn changed(&self) -> &Tiles {
        &self.changed
    }

    /// Copies what has changed on the screen.
    pub(crate) fn refresh(&mut self, screen: &dyn Screen) {
        let Size { width, height } = screen.size();
        let size = Size { width: width.clamp(1, MAX_SIDE), height: height.clamp(1, MAX_SIDE) };
        if size != self.size {
            self.size = size;
            self.pixels = vec![0; usize::from(size.width) * usize::from(size.height)];
            self.line = vec![0; size.width.into()];
            self.dirty = Lines::new(size.height);
            self.changed = Tiles::full(size);
            screen.take_dirty_lines(&mut self.dirty);
            self.dirty.insert_all();
        } else {
            self.changed.clear();
            screen.take_dirty_lines(&mut self.dirty);
        }
        for y in self.dirty.iter() {
            screen.read_line(y, &mut self.line);
            self.line.iter_mut().for_each(|pixel| *pixel &= 0x00ff_ffff);
            let start = usize::from(y) * usize::from(size.width);
            let old = &mut self.pixels[start..start + usize::from(size.width)];
            if old == self.line {
                continue;
            }
            let tiles = old.chunks_mut(TILE.into()).zip(self.line.chunks(TILE.into()));
            for (column, (old, new)) in (0..).zip(tiles) {
                if old != new {
                    old.copy_from_slice(new);
                    self.changed.insert(column, y / TILE);
                }
            }
        }
        self.dirty.clear();
    }

    /// Copies the pixels of a rectangle into `to`, line after line. Pixels outside of the screen, which may
    /// have become smaller, are black.
    pub(crate) fn copy(&self, rect: Rect, to: &mut Vec<u32>) {
        to.clear();
        let there = rect.within(self.size);
        let lines = if there.is_empty() { 0 } else { there.height };
        for y in rect.y..rect.y + lines {
            let start = usize::from(y) * usize::from(self.size.width) + usize::from(rect.x);
            to.extend_from_slice(&self.pixels[start..start + usize::from(there.width)]);
            to.resize(to.len() + usize::from(rect.width - there.width), 0);
        }
        to.resize(usize::from(rect.width) * usize::from(rect.height), 0);
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
