//! Sizes, lines and what a kernel is told; the log itself is tested with a guest, in `tests/machine.rs`.

use super::*;

#[test]
fn sizes_from_640x480_to_2560x1600_have_lines_of_whole_pages() {
    for (width, height, stride) in
        [(640, 480, 4096), (1024, 768, 4096), (1025, 768, 8192), (1920, 1080, 8192), (2560, 1600, 12288)]
    {
        let size = Size::new(width, height).unwrap();
        let info = size.screen_info();
        assert_eq!(({ info.lfb_linelength }, { info.lfb_base }), (stride, 0xc000_0000));
        assert_eq!({ info.lfb_size }, u32::from(stride) * height);
        assert_eq!(({ info.lfb_width }, { info.lfb_height }), (width as u16, height as u16));
        let end = SCREEN + u64::from(info.lfb_size);
        assert!(end <= crate::layout::MMIO, "no window of a device lies inside");
    }
    for (width, height) in [(639, 480), (640, 479), (2561, 1600), (2560, 1601), (0, 0), (u32::MAX, u32::MAX)]
    {
        let e = Size::new(width, height).unwrap_err().to_string();
        assert_eq!(e, format!("a screen of {width}x{height}: give 640x480 to 2560x1600"));
    }
}

#[test]
fn a_page_of_the_log_is_a_line_or_a_part_of_one() {
    let mut lines = [false; 70];
    mark_lines(&[1 << 63 | 1, 1], 1, &mut lines);
    let changed = |lines: &[bool]| -> Vec<_> { (0..lines.len()).filter(|line| lines[*line]).collect() };
    assert_eq!(changed(&lines), [0, 63, 64]);
    let mut lines = [false; 30];
    // The log is longer than the screen.
    mark_lines(&[1 << 2 | 1 << 3, u64::MAX << 32], 3, &mut lines);
    assert_eq!(changed(&lines), [0, 1]);
}

#[test]
fn lines_are_read_without_their_padding_and_none_beyond_the_last() {
    let screen = Screen::new(Size::new(640, 480).unwrap()).unwrap();
    screen.memory.get_slice(479 * 4096, 4096).unwrap().copy_from(&[7u8; 4096]);
    let mut pixels = [1; 1024];
    screen.read_line(479, &mut pixels);
    assert_eq!((pixels[639], pixels[640]), (0x0707_0707, 1));
    screen.read_line(480, &mut pixels);
    assert_eq!(pixels[0], 0x0707_0707);
    screen.clear().unwrap();
    screen.read_line(479, &mut pixels[..8]);
    assert_eq!(pixels[6..10], [0, 0, 0x0707_0707, 0x0707_0707]);
}

#[test]
fn all_lines_have_changed_at_first_and_after_a_reset_and_only_then() {
    let screen = Screen::new(Size::default()).unwrap();
    let mut lines = vec![false; 768];
    screen.take_changes(&mut lines).unwrap();
    assert!(lines.iter().all(|line| *line));
    lines.fill(false);
    screen.take_changes(&mut lines).unwrap();
    assert!(!lines.contains(&true));
    screen.clear().unwrap();
    screen.take_changes(&mut lines).unwrap();
    assert!(lines.iter().all(|line| *line));
}
