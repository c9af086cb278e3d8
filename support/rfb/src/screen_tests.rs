use super::*;

#[test]
fn bits_of_a_dirty_log_are_lines() {
    let mut lines = Lines::new(70);
    lines.insert_bits(&[1 | 1 << 63, 0b11, 5]);
    assert_eq!(lines.iter().collect::<Vec<_>>(), [0, 63, 64, 65]);
    lines.insert(69);
    lines.insert(70);
    assert_eq!(lines.iter().last(), Some(69));
    lines.clear();
    assert!(lines.is_empty());
    lines.insert_bits(&[0, u64::MAX]);
    assert_eq!(lines.iter().collect::<Vec<_>>(), (64..70).collect::<Vec<_>>());
    lines.insert_all();
    assert_eq!(lines.iter().count(), 70);
    assert!(!lines.contains(70));
}

#[test]
fn a_height_of_whole_words_keeps_its_last_lines() {
    let mut lines = Lines::new(768);
    lines.insert_bits(&[u64::MAX; 12]);
    assert_eq!(lines.iter().count(), 768);
}
