use super::*;

fn space() -> Space {
    let class = |n, writes| Class { n, writes, ..Class::default() };
    Space::new(1.0, vec![class(100.0, 0.9), class(900.0, 0.1), class(1000.0, 0.0)])
}

#[test]
fn every_order_copies_everything_once() {
    for plan in [Plan::Sequential, Plan::ColdFirst, Plan::HotFirst, Plan::Trace] {
        let mut space = space();
        for _ in 0..25 {
            space.copy(100.0, plan);
        }
        assert!(space.todo() < 1e-6 && (space.copied - 2000.0).abs() < 1e-6, "{plan:?}");
        assert_eq!(space.recopied.round(), 0.0, "{plan:?}");
    }
}

#[test]
fn orders_begin_with_their_granules() {
    let after = |plan| {
        let mut space = space();
        space.copy(100.0, plan);
        [0, 1, 2].map(|class| space.classes[class].left.round())
    };
    assert_eq!(after(Plan::HotFirst), [0.0, 900.0, 1000.0]);
    assert_eq!(after(Plan::ColdFirst), [100.0, 900.0, 900.0]);
    assert_eq!(after(Plan::Sequential), [95.0, 855.0, 950.0]);
    assert_eq!(after(Plan::Trace), [90.0, 810.0, 1000.0]);
}

#[test]
fn writes_make_stale_what_was_copied_and_nothing_else() {
    let mut space = space();
    assert_eq!(space.write(1000.0), 0.0);
    space.copy(1e9, Plan::Sequential);
    let stale = space.write(100.0);
    let expected = 100.0 * (1.0 - (-0.9_f64).exp()) + 900.0 * (1.0 - (-10.0_f64 / 900.0).exp());
    assert!((stale - expected).abs() < 1e-6 && (space.todo() - expected).abs() < 1e-6);
    assert!((space.done_share() - (0.9 * (-0.9_f64).exp() + 0.1 * (-10.0_f64 / 900.0).exp())).abs() < 1e-9);
}

#[test]
fn a_round_copies_what_was_there_when_it_began() {
    let mut space = space();
    space.freeze();
    let stale = space.write(50.0);
    assert!((space.next() - stale).abs() < 1e-9 && space.left() == 2000.0);
    space.copy(1e9, Plan::Sequential);
    assert!(space.left() == 0.0 && (space.todo() - stale).abs() < 1e-9);
    space.freeze();
    assert!((space.left() - stale).abs() < 1e-9 && space.next() == 0.0 && space.rounds == 2);
}
