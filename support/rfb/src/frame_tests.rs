use std::cell::{Cell, RefCell};

use super::*;

struct Fake {
    size: Cell<Size>,
    pixels: RefCell<Vec<u32>>,
    dirty: RefCell<Vec<u16>>,
}

impl Screen for Fake {
    fn size(&self) -> Size {
        self.size.get()
    }

    fn take_dirty_lines(&self, lines: &mut Lines) {
        self.dirty.take().into_iter().for_each(|line| lines.insert(line));
    }

    fn read_line(&self, line: u16, pixels: &mut [u32]) {
        let start = usize::from(line) * usize::from(self.size.get().width);
        pixels.copy_from_slice(&self.pixels.borrow()[start..start + pixels.len()]);
    }
}

fn fake(width: u16, height: u16) -> Fake {
    let pixels = vec![7; usize::from(width) * usize::from(height)];
    Fake { size: Cell::new(Size { width, height }), pixels: pixels.into(), dirty: RefCell::default() }
}

fn changed(frame: &Frame) -> Vec<Rect> {
    frame.changed().clone().take(Rect::all(frame.size()))
}

#[test]
fn tiles_are_changed_if_a_pixel_of_a_dirty_line_is() {
    let (screen, mut frame) = (fake(40, 40), Frame::default());
    frame.refresh(&screen);
    assert_eq!(changed(&frame), [Rect { x: 0, y: 0, width: 40, height: 40 }]);
    // Dirty, but as before; the highest byte is no colour.
    screen.dirty.replace(vec![3, 39]);
    screen.pixels.borrow_mut()[3 * 40] = 0xff00_0007;
    frame.refresh(&screen);
    assert!(frame.changed().is_empty());
    // Two pixels of one tile, one of the last tile, and one that is not reported yet.
    screen.dirty.replace(vec![20, 21, 39]);
    for (x, y) in [(17, 20), (18, 21), (39, 39), (0, 0)] {
        screen.pixels.borrow_mut()[y * 40 + x] = 8;
    }
    frame.refresh(&screen);
    let tile = Rect { x: 16, y: 16, width: 16, height: 16 };
    assert_eq!(changed(&frame), [tile, Rect { x: 32, y: 32, width: 8, height: 8 }]);
    let mut pixels = Vec::new();
    frame.copy(Rect { x: 16, y: 20, width: 3, height: 2 }, &mut pixels);
    assert_eq!(pixels, [7, 8, 7, 7, 7, 8]);
}

#[test]
fn a_new_size_changes_everything_and_what_is_gone_is_black() {
    let (screen, mut frame) = (fake(40, 40), Frame::default());
    frame.refresh(&screen);
    screen.size.set(Size { width: 20, height: 30 });
    frame.refresh(&screen);
    assert_eq!(changed(&frame), [Rect { x: 0, y: 0, width: 20, height: 30 }]);
    let mut pixels = Vec::new();
    frame.copy(Rect { x: 18, y: 29, width: 4, height: 2 }, &mut pixels);
    assert_eq!(pixels, [7, 7, 0, 0, 0, 0, 0, 0]);
    frame.copy(Rect { x: 30, y: 35, width: 2, height: 2 }, &mut pixels);
    assert_eq!(pixels, [0; 4]);
}

#[test]
fn a_size_that_no_screen_has_is_cut() {
    let (screen, mut frame) = (fake(1, 1), Frame::default());
    screen.size.set(Size { width: 0, height: 0 });
    screen.pixels.replace(vec![1]);
    frame.refresh(&screen);
    assert_eq!(frame.size(), Size { width: 1, height: 1 });
}
