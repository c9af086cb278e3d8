use super::*;

const SIZE: Size = Size { width: 1000, height: 200 };

fn rect(x: u16, y: u16, width: u16, height: u16) -> Rect {
    Rect { x, y, width, height }
}

/// How often each tile is covered by the rectangles.
fn cover(size: Size, rects: &[Rect]) -> Vec<u32> {
    let mut pixels = vec![0; usize::from(size.width) * usize::from(size.height)];
    for rect in rects {
        assert!(!rect.is_empty() && rect.height <= MAX_LINES);
        assert!(rect.right() <= size.width.into() && rect.bottom() <= size.height.into(), "{rect:?}");
        for y in rect.y..rect.y + rect.height {
            for x in rect.x..rect.x + rect.width {
                pixels[usize::from(y) * usize::from(size.width) + usize::from(x)] += 1;
            }
        }
    }
    pixels
}

#[test]
fn all_tiles_are_bands_of_64_lines() {
    let rects = Tiles::full(SIZE).take(Rect::all(SIZE));
    assert_eq!(
        rects,
        [rect(0, 0, 1000, 64), rect(0, 64, 1000, 64), rect(0, 128, 1000, 64), rect(0, 192, 1000, 8)]
    );
}

#[test]
fn any_set_is_covered_once_and_nothing_else() {
    let mut state = 1u64;
    for _ in 0..50 {
        let mut tiles = Tiles::new(SIZE);
        let mut expected = vec![0; 200_000];
        for row in 0..tiles.rows {
            for column in 0..tiles.columns {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Many runs, and equal ones above each other.
                if state >> 62 == 0 || column / 8 % 3 == 1 {
                    tiles.insert(column, row);
                    let tile = rect(column * TILE, row * TILE, TILE, TILE).within(SIZE);
                    for y in tile.y..tile.y + tile.height {
                        for x in tile.x..tile.x + tile.width {
                            expected[usize::from(y) * 1000 + usize::from(x)] = 1;
                        }
                    }
                }
            }
        }
        let rects = tiles.take(Rect::all(SIZE));
        assert_eq!(cover(SIZE, &rects), expected);
        assert!(tiles.is_empty());
    }
}

#[test]
fn an_area_takes_whole_tiles_and_leaves_the_others() {
    let mut tiles = Tiles::full(SIZE);
    let rects = tiles.take(rect(20, 20, 1, 13));
    assert_eq!(rects, [rect(16, 16, 16, 32)]);
    for (area, left) in
        [(rect(16, 16, 16, 32), false), (rect(15, 16, 1, 1), true), (rect(31, 16, 2, 1), true)]
    {
        assert_eq!(!tiles.clone().take(area).is_empty(), left, "{area:?}");
    }
    assert_eq!(tiles.take(rect(20, 20, 1, 13)), []);
    // Areas with nothing inside, and beyond the screen.
    for area in
        [rect(5, 5, 0, 9), rect(1000, 0, 5, 5), rect(0, 200, 5, 5), rect(65_535, 65_535, 65_535, 65_535)]
    {
        assert_eq!(tiles.take(area), [], "{area:?}");
    }
    assert_eq!(tiles.take(rect(990, 190, 65_535, 65_535)), [rect(976, 176, 24, 24)]);
}

#[test]
fn the_largest_checkerboard_is_few_enough_rectangles() {
    let size = Size { width: 8192, height: 8192 };
    let mut tiles = Tiles::new(size);
    for row in 0..tiles.rows {
        for column in (0..tiles.columns).filter(|column| (column + row) % 2 == 0) {
            tiles.insert(column, row);
        }
    }
    let rects = tiles.take(Rect::all(size));
    assert!(rects.len() <= MAX_RECTS, "{}", rects.len());
    assert!(cover(size, &rects).chunks(16).step_by(2).take(512).all(|tile| tile == [1; 16]));
}

#[test]
fn rectangles_join_within_their_screen() {
    let joined = rect(10, 20, 30, 40).with(&rect(5, 100, 10, 10));
    assert_eq!(joined, rect(5, 20, 35, 90));
    assert_eq!(Rect::all(SIZE).with(&joined), Rect::all(SIZE));
    assert_eq!(rect(990, 0, 20, 300).within(SIZE), rect(990, 0, 10, 200));
}
