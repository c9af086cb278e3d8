//! The two buffers and their bounds.

use super::*;

fn is_raised(event: &EventFd) -> bool {
    event.read().is_ok()
}

#[test]
fn output_is_taken_in_order_and_told_once() {
    let line = Line::new().unwrap();
    line.put_output(b"abc");
    line.put_output(b"def");
    assert!(is_raised(&line.output) && !is_raised(&line.output));
    assert_eq!(line.take_output(4), b"abcd");
    line.return_output(b"cd");
    assert_eq!(line.take_output(100), b"cdef");
    assert!(line.take_output(100).is_empty());
    line.put_output(b"g");
    assert!(is_raised(&line.output));
}

#[test]
fn what_is_too_much_pushes_out_the_oldest() {
    let line = Line::new().unwrap();
    line.put_output(&[1; KEPT_MAX]);
    line.put_output(b"new");
    line.return_output(b"old");
    let kept = line.take_output(usize::MAX);
    assert_eq!((kept.len(), &kept[KEPT_MAX - 3..]), (KEPT_MAX, &b"new"[..]));
    let long: Vec<u8> = (0..KEPT_MAX + 10).map(|at| at as u8).collect();
    line.put_output(&long);
    assert_eq!(line.take_output(usize::MAX), long[10..]);
}

#[test]
fn only_who_is_heard_waits() {
    let line = Line::new().unwrap();
    line.put_output(&[0; OUTPUT_MAX]);
    assert!(!line.should_wait(), "nobody has taken anything yet");
    line.take_output(1);
    assert!(!line.should_wait(), "there is room");
    line.put_output(&[0]);
    assert!(line.should_wait());
    line.give_up();
    assert!(!line.should_wait(), "it was waited for");
    is_raised(&line.drained);
    line.take_output(1);
    assert!(is_raised(&line.drained));
    line.put_output(&[0]);
    assert!(line.should_wait(), "somebody is there again");
}

#[test]
fn input_beyond_the_bound_stays_outside() {
    let line = Line::new().unwrap();
    assert_eq!(line.offer_input(&[7; INPUT_MAX + 1]), INPUT_MAX);
    assert_eq!(line.offer_input(b"x"), 0);
    assert!(is_raised(&line.input) && line.has_input());
    assert!(!is_raised(&line.room));
    assert_eq!(line.take_input(3), [7; 3]);
    assert!(is_raised(&line.room));
    assert_eq!(line.offer_input(b"xyzz"), 3);
    let rest = line.take_input(usize::MAX);
    assert_eq!((rest.len(), &rest[INPUT_MAX - 3..]), (INPUT_MAX, &b"xyz"[..]));
    assert!(!line.has_input());
}
