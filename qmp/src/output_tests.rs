//! The queue of one client: order, bounds, and the count of what was dropped.

use executor::Executor;
use serde_json::json;

use super::*;
use crate::event::{BlockExportDeleted, Stopped};

/// Takes and sends all lines.
async fn drain(outbox: &Outbox) -> Vec<Value> {
    let mut all = Vec::new();
    while !outbox.lines.borrow().is_empty() {
        all.push(serde_json::from_str(&outbox.next().await.unwrap()).unwrap());
        outbox.sent();
    }
    all
}

#[test]
fn messages_are_spaced_as_qemu_spaces_them() {
    let message = json!({"a": [1, "b,c:d", {}], "return": {"d": null, "e": []}});
    let expected = "{\"a\": [1, \"b,c:d\", {}], \"return\": {\"d\": null, \"e\": []}}\r\n";
    assert_eq!(&*line(&message), expected);
}

#[test]
fn events_wait_for_the_negotiation_and_keep_their_order() {
    Executor::simulated(1).block_on(async {
        let (events, outbox) = (Events::new(), Rc::new(Outbox::default()));
        events.add(&outbox);
        events.emit(&Stopped {});
        outbox.set_negotiated();
        events.emit(&BlockExportDeleted { id: "a".into() });
        outbox.answer("1".into());
        events.emit(&Stopped {});
        let all = drain(&outbox).await;
        assert_eq!(all.len(), 3);
        assert_eq!(all[0]["data"]["id"], "a");
        assert_eq!(all[1], 1);
        assert_eq!((&all[2]["event"], all[2].get("data")), (&"STOP".into(), None));
        assert!(all[2]["timestamp"]["seconds"].as_i64() > Some(0));
    });
}

#[test]
fn a_client_that_does_not_read_costs_a_bound_and_learns_what_it_missed() {
    Executor::simulated(1).block_on(async {
        let (events, outbox) = (Events::new(), Rc::new(Outbox::default()));
        events.add(&outbox);
        outbox.set_negotiated();
        let event = BlockExportDeleted { id: "x".repeat(1000) };
        let sent = 10_000;
        for _ in 0..sent {
            events.emit(&event);
        }
        assert!(outbox.bytes.get() <= MAX_EVENT_BYTES);
        outbox.answer("{}".into());
        let all = drain(&outbox).await;
        let (last, rest) = all.split_last().unwrap();
        assert_eq!(last["event"], "EVENTS_DROPPED");
        assert_eq!(last["data"]["count"], sent - (rest.len() as u64 - 1));
        // And it gets events again.
        events.emit(&event);
        assert_eq!(drain(&outbox).await.len(), 1);
        assert_eq!((outbox.bytes.get(), outbox.event_bytes.get()), (0, 0));
    });
}

#[test]
fn a_closed_client_holds_nothing_up() {
    Executor::simulated(1).block_on(async {
        let outbox = Outbox::default();
        outbox.answer("x".repeat(MAX_ANSWER_BYTES + 1).into());
        outbox.close();
        outbox.room().await;
        outbox.drained().await;
        assert!(outbox.next().await.is_none());
    });
}
